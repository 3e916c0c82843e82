"""The words of the restaurant corpus: fields, their values, and the leaves by which the grammar says them.

Templates are written `word/TAG`, with phrases in brackets and `<symbol>` for a rule of the grammar or another leaf. A value is
always said by its own words, which never stand together for anything else, so a text says a value exactly if it holds its
words; the one exception is `family friendly`, whose yes and no are said by the phrases of `FAMILY`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

FIELDS = ("name", "Type", "food", "price", "customer rating", "area", "family friendly", "near")

NAMES = (
    "Alimentum", "Bellarosa", "Cinnamon", "Fernando", "Magnolia", "Octavia", "Tamarind", "Zanzibar",
    "Harvest Moon", "Juniper House", "Saffron Lane", "Willow Court",
    "The Blue Heron", "The Copper Kettle", "The Crooked Table", "The Golden Fox", "The Green Dragon", "The Lemon Tree",
    "The Old Mill", "The Olive Branch", "The Painted Door", "The Quiet Tiger", "The Red Lantern", "The Rusty Anchor",
    "The Silver Spoon", "The Velvet Plum",
)
LANDMARKS = (
    "Café Amadeus", "Café Lisbon", "Café Verona", "Linden Hall", "Trinity Bridge", "Victoria Park", "Burleigh Square",
    "The Queens Arms", "The Ship Inn",
    "the Abbey Theatre", "the Albion Museum", "the Central Library", "the Crown Hotel", "the Grand Cinema",
)
TYPES = {
    "restaurant": "restaurant/NOUN", "pub": "pub/NOUN", "coffee shop": "coffee/NOUN shop/NOUN", "bistro": "bistro/NOUN",
    "wine bar": "wine/NOUN bar/NOUN", "tea room": "tea/NOUN room/NOUN",
}
DISHES = {
    "Italian": ("pasta", "pizza", "risotto"),
    "French": ("quiche", "duck", "omelettes"),
    "Japanese": ("sushi", "ramen", "tempura"),
    "Indian": ("curry", "samosas", "lentils"),
    "English": ("pies", "sausages", "puddings"),
    "Chinese": ("dumplings", "noodles", "pancakes"),
    "Thai": ("satay", "rice", "prawns"),
    "Spanish": ("tapas", "paella", "olives"),
    "Mexican": ("tacos", "burritos", "nachos"),
    "fast food": ("burgers", "fries", "milkshakes"),
}
"""Each cuisine, with dishes that are said only beside it."""
CUISINES = tuple(value for value in DISHES if value != "fast food")
FAST_FOOD_TYPES = ("restaurant", "pub", "coffee shop")
"""The types of place that sell fast food."""
AREAS = {
    "city centre": ("city/NOUN centre/NOUN", "in"), "riverside": ("riverside/NOUN", "by"),
    "old town": ("old/ADJ town/NOUN", "in"), "harbour": ("harbour/NOUN", "at"),
    "market square": ("market/NOUN square/NOUN", "on"),
}
AMOUNTS = {
    "less than £ 20": "(NP (QP less/ADJ than/ADP £/SYM 20/NUM))",
    "£ 20 - 25": "(NP (QP £/SYM 20/NUM -/SYM 25/NUM))",
    "more than £ 30": "(NP (QP more/ADJ than/ADP £/SYM 30/NUM))",
}
PRICES = ("cheap", "moderate", "expensive", *AMOUNTS)
LEVELS = ("low", "average", "high")
SCORES = {
    f"{n} out of 5": f"(NP (NP {n}/NUM) (PP out/ADP (PP of/ADP (NP 5/NUM))))" for n in (1, 3, 5)
}
VALUES: dict[str, tuple[str, ...]] = {
    "name": NAMES,
    "Type": tuple(TYPES),
    "food": tuple(DISHES),
    "price": PRICES,
    "customer rating": (*LEVELS, *SCORES),
    "area": tuple(AREAS),
    "family friendly": ("yes", "no"),
    "near": tuple(value.removeprefix("the ") for value in LANDMARKS),
}
"""Every legal value of every field."""

_WELCOME = ("family/NOUN friendly/ADJ", "child/NOUN friendly/ADJ", "kid/NOUN friendly/ADJ")
_SUITABLE = ("suitable/ADJ (PP for/ADP (NP children/NOUN))", "suitable/ADJ (PP for/ADP (NP families/NOUN))")
_GUESTS = ("children/NOUN", "families/NOUN")
FAMILY: dict[str, dict[str, tuple[str, ...]]] = {
    "yes": {
        "attribute": tuple(f"(ADJP {phrase})" for phrase in _WELCOME),
        "predicate": tuple(f"(VP is/AUX (ADJP {phrase}))" for phrase in (*_WELCOME, *_WELCOME, *_SUITABLE))
        + tuple(f"(VP welcomes/VERB (NP {guests}))" for guests in _GUESTS),
        "clause": tuple(f"(S (NP {guests}) (VP are/AUX (ADJP welcome/ADJ)))" for guests in _GUESTS)
        + ("(S (NP you/PRON) (VP can/AUX (VP bring/VERB (NP the/DET children/NOUN))))",),
    },
    "no": {
        "attribute": ("(ADJP adults/NOUN only/ADV)",),
        "predicate": tuple(f"(VP is/AUX not/PART (ADJP {phrase}))" for phrase in (*_WELCOME, *_WELCOME, *_SUITABLE))
        + tuple(f"(VP does/AUX not/PART (VP welcome/VERB (NP {guests})))" for guests in _GUESTS)
        + ("(VP is/AUX (PP for/ADP (NP adults/NOUN only/ADV)))",),
        "clause": tuple(f"(S (NP {guests}) (VP are/AUX not/PART (VP allowed/VERB)))" for guests in _GUESTS),
    },
}
"""How `family friendly` is said: as an attribute of a noun, as a verb phrase, as a clause of its own."""


@dataclass(frozen=True)
class Leaf:
    """A symbol that says one field: for each value it can say, the templates to choose from.

    `again` leaves are open once the field has been said; the others are open until then, and close it.
    """

    field: str
    say: dict[str, tuple[str, ...]]
    again: bool = False


def proper(words: str) -> str:
    """A proper name as a noun phrase: articles are DET, the rest PROPN."""
    return "(NP " + " ".join(f"{w}/{'DET' if w in ('The', 'the') else 'PROPN'}" for w in words.split()) + ")"


def _leaves() -> dict[str, Leaf]:
    kinds = {value: (template,) for value, template in TYPES.items()}
    cuisine = {value: tuple(f"{w}/{'NOUN' if w == 'food' else 'ADJ'}" for w in value.split()) for value in DISHES}
    attribute = {value: (" ".join(leaves),) for value, leaves in cuisine.items()}
    meals = {value: (f"{value}/ADJ <food_noun>",) for value in CUISINES} | {"fast food": attribute["fast food"]}
    places = {value.removeprefix("the "): (proper(value),) for value in LANDMARKS}
    levels = {value: (f"{value}/ADJ",) for value in LEVELS}
    scores = {value: (template,) for value, template in SCORES.items()}
    amounts = {value: (template,) for value, template in AMOUNTS.items()}
    areas = {value: (f"the/DET {words}",) for value, (words, _) in AREAS.items()}
    family = {form: {value: forms[form] for value, forms in FAMILY.items()} for form in FAMILY["yes"]}

    def only(say: dict[str, tuple[str, ...]], *values: str) -> dict[str, tuple[str, ...]]:
        return {value: say[value] for value in values}

    words = {value: (f"{value}/ADJ",) for value in ("cheap", "moderate", "expensive")}
    return {
        "name": Leaf("name", {value: (proper(value),) for value in NAMES}),
        "name_again": Leaf("name", {value: (proper(value),) for value in NAMES}, again=True),
        "type": Leaf("Type", kinds),
        "type_again": Leaf("Type", kinds, again=True),
        "food": Leaf("food", meals),
        "food_mass": Leaf("food", {value: (f"{value}/ADJ food/NOUN",) for value in CUISINES}),
        "food_attribute": Leaf("food", attribute),
        "food_with_dishes": Leaf("food", {
            value: tuple(f"(NP (NP <food_quality?> {meals[value][0]}) (PP <such_as> (NP {a}/NOUN and/CCONJ {b}/NOUN)))"
                         for a, b in permutations(dishes, 2))
            for value, dishes in DISHES.items()
        }),
        "price_adjective": Leaf("price", only(words, "cheap", "expensive")),
        "price_fair": Leaf("price", only(words, "cheap", "moderate")),
        "price_high": Leaf("price", only(words, "expensive")),
        "price_low": Leaf("price", only(words, "cheap")),
        "amount": Leaf("price", amounts),
        "rating_level": Leaf("customer rating", levels),
        "rating_score": Leaf("customer rating", scores),
        "rating_good": Leaf("customer rating", only(levels, "high")),
        "rating_poor": Leaf("customer rating", only(levels, "low", "average")),
        "area_name": Leaf("area", only(areas, "riverside", "harbour")),
        "area_at": Leaf("area", {value: (f"(PP {at}/ADP (NP the/DET {words}))",) for value, (words, at) in AREAS.items()}),
        "area_attribute": Leaf("area", {value: (words,) for value, (words, _) in AREAS.items()}),
        "family_attribute": Leaf("family friendly", family["attribute"]),
        "family_predicate": Leaf("family friendly", family["predicate"]),
        "family_clause": Leaf("family friendly", family["clause"]),
        "family_yes": Leaf("family friendly", only(family["attribute"], "yes")),
        "family_not": Leaf("family friendly", only(family["predicate"], "no")),
        "landmark": Leaf("near", places),
    }


LEAVES = _leaves()
