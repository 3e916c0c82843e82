"""The productions of the restaurant grammar, as text.

A line without indent names a symbol; the indented lines below it are its productions: a weight, then the template. Templates
hold `word/TAG`, bracketed phrases, `<symbol>` (must be expanded) and `<symbol?>` (may be left out). `a/DET` becomes `an` where
it must, and the first word of a sentence gets its capital. A production is open while everything that it has to say is still
unsaid; see `grammar.Grammar`. Sentences never begin with a value in small letters, so that values keep one spelling.
"""

FIRST = """
first
  10 (S <name> (VP is/AUX <place>) ./PUNCT)
  5 (S <name> <vp> ./PUNCT)
  5 (S <name> (VP <vp> and/CCONJ <vp>) ./PUNCT)
  4 (S (S <name> (VP is/AUX <place>)) ,/PUNCT and/CCONJ (S (NP it/PRON) <vp>) ./PUNCT)
  4 (S <front> ,/PUNCT <name> (VP is/AUX <place_short>) ./PUNCT)
  4 (S <front> ,/PUNCT <name> <vp_other> ./PUNCT)
  3 (S <front_place> ,/PUNCT (NP you/PRON) (VP <modal> (VP find/VERB (NP <name> ,/PUNCT <place>))) ./PUNCT)
  4 (S (NP there/PRON) (VP is/AUX (NP <place_short> (VP called/VERB <name>) <location?>)) ./PUNCT)
  5 (S (NP <name> ,/PUNCT <place> ,/PUNCT) <vp> ./PUNCT)
  4 (S (NP <name> ,/PUNCT <which> ,/PUNCT) <vp> ./PUNCT)
  3 (S (NP <name> ,/PUNCT <which> ,/PUNCT) (VP is/AUX <place_short>) ./PUNCT)
  3 (S (NP the/DET <nominal> <name>) <vp> ./PUNCT)
  2 (S <place_named> (VP is/AUX <name>) ./PUNCT)
  2 (S <front_single> (VP <stands> (NP <name> ,/PUNCT <place>)) ./PUNCT)
  2 (S (VP <visit> <name> <location_plain?> <for_food>) ./PUNCT)
  3 (S <if_clause> ,/PUNCT <suggest> ./PUNCT)
  2 (S <suggest_name> <if_clause> ./PUNCT)
  2 (S (S are/AUX (NP you/PRON) (VP looking/VERB (PP for/ADP <wish>)) ?/PUNCT) (S <suggest> ./PUNCT))
  2 (S (ADVP why/ADV) not/PART (VP <visit> (NP <name> ,/PUNCT <place>)) ?/PUNCT)
  2 (S (NP <food_mass>) (VP is/AUX (VP served/VERB (PP at/ADP (NP <name> ,/PUNCT <place>)))) ./PUNCT)
  3 (S (NP you/PRON) (VP can/AUX (VP <enjoy> <meal> (PP at/ADP (NP <name> ,/PUNCT <place>)))) ./PUNCT)
  2 (S (NP customers/NOUN) (VP rate/VERB (NP <name> ,/PUNCT <place> ,/PUNCT) <rating_score>) ./PUNCT)
  2 (S <although> ,/PUNCT <name> <vp_good> ./PUNCT)
  3 (S <contrast_name> ./PUNCT)
  3 (S (VP <participle>) ,/PUNCT <name> (VP is/AUX <place_short>) ./PUNCT)
nameless
  5 (S (NP there/PRON) (VP is/AUX <place>) ./PUNCT)
  4 (S <place_subject> <vp> ./PUNCT)
  3 (S <front_place> ,/PUNCT (NP there/PRON) (VP is/AUX <place>) ./PUNCT)
  2 (S <front_place> ,/PUNCT (NP you/PRON) (VP <modal> (VP find/VERB <place>)) ./PUNCT)
  2 (S (NP this/DET <nominal>) <vp> ./PUNCT)
"""

LATER = """
more
  9 (S <subject> <vp_also> ./PUNCT)
  7 (S <subject> (VP <vp_also> and/CCONJ <vp>) ./PUNCT)
  3 (S (S <subject> <vp>) ,/PUNCT and/CCONJ <clause> ./PUNCT)
  3 (S <clause> ,/PUNCT and/CCONJ (S (NP it/PRON) <vp>) ./PUNCT)
  4 (S <clause> ./PUNCT)
  3 (S <contrast> ./PUNCT)
  3 (S <front_loose> ,/PUNCT (NP it/PRON) <vp_other> ./PUNCT)
  2 (S <although> ,/PUNCT (NP it/PRON) <vp_good> ./PUNCT)
  3 (S (NP it/PRON) (VP is/AUX <place_new>) ./PUNCT)
subject
  8 (NP it/PRON)
  2 (NP the/DET <generic>)
  4 (NP the/DET <type_again>)
  4 (NP the/DET <type>)
  2 (NP this/DET <type_again>)
  1 (NP this/DET <quality> <generic>)
  1 <name_again>
clause
  2 (S (NP its/PRON prices/NOUN) (VP are/AUX (ADJP <price_fair>)))
  2 (S (NP the/DET prices/NOUN) (VP are/AUX (ADJP <price_fair>)))
  2 (S (NP the/DET <bill>) (VP is/AUX (ADJP <price_adjective>)))
  3 (S (NP a/DET <meal_word>) (VP <usually?> costs/VERB <amount>))
  2 (S (NP its/PRON customer/NOUN rating/NOUN) (VP is/AUX <rating_score>))
  2 (S (NP its/PRON customer/NOUN rating/NOUN) (VP is/AUX (ADJP <rating_level>)))
  3 (S (NP customers/NOUN) (VP rate/VERB (NP it/PRON) <rating_score>))
  2 (S (NP (NP the/DET rating/NOUN) (PP from/ADP (NP customers/NOUN))) (VP is/AUX (ADJP <rating_level>)))
  5 <family_clause>
  3 (S (NP you/PRON) (VP <modal> (VP find/VERB (NP it/PRON) <location_plain>)))
  2 (S (NP you/PRON) (VP can/AUX (VP <enjoy> <meal> (ADVP there/ADV))))
  2 (S (NP the/DET menu/NOUN) (VP <lists> <meal>))
  2 (S (NP the/DET <cook>) (VP prepares/VERB <meal>))
filler
  6 (S <remark> ./PUNCT)
  3 (S <remark> ,/PUNCT and/CCONJ <remark_b> ./PUNCT)
  2 (S (NP you/PRON) (VP <should> (VP book/VERB (NP a/DET table/NOUN) <booking>)) ./PUNCT)
  2 (S (NP it/PRON) (VP is/AUX (ADJP open/ADJ <hours>)) ./PUNCT)
  1 (S (VP try/VERB (NP the/DET <special>)) ./PUNCT)
contrast
  3 (S (NP it/PRON) (VP is/AUX (ADJP <price_low>))) ,/PUNCT but/CCONJ (S (NP it/PRON) (VP has/VERB <rating_low>))
  3 (S (NP it/PRON) (VP is/AUX (ADJP <price_high>))) ,/PUNCT but/CCONJ (S (NP it/PRON) (VP has/VERB <rating_high>))
  2 (S (NP the/DET prices/NOUN) (VP are/AUX (ADJP <price_fair>))) ,/PUNCT but/CCONJ (S (NP it/PRON) <family_not>)
  2 (S (NP it/PRON) (VP has/VERB <rating_high>)) ,/PUNCT but/CCONJ (S (NP it/PRON) <family_not>)
contrast_name
  3 (S <name> (VP is/AUX <place_cheap>)) ,/PUNCT but/CCONJ (S (NP it/PRON) (VP has/VERB <rating_low>))
  3 (S <name> (VP is/AUX <place_dear>)) ,/PUNCT but/CCONJ (S (NP it/PRON) (VP has/VERB <rating_high>))
  3 (S <name> (VP <serves> <meal>)) ,/PUNCT but/CCONJ (S (NP it/PRON) <family_not>)
although
  2 (SBAR although/SCONJ (S (NP it/PRON) (VP is/AUX (ADJP <price_high>))))
  2 (SBAR although/SCONJ (S (NP it/PRON) (VP has/VERB <rating_low>)))
  2 (SBAR although/SCONJ (S (NP it/PRON) <family_not>))
vp_good
  3 (VP has/VERB <rating_high>)
  3 (VP <serves> (NP <food_quality> <food>))
  1 (VP is/AUX (ADJP popular/ADJ (PP with/ADP (NP <crowd>))))
if_clause
  3 (SBAR if/SCONJ (S (NP you/PRON) (VP are/AUX (VP looking/VERB (PP for/ADP <wish>)))))
  2 (SBAR if/SCONJ (S (NP you/PRON) (VP want/VERB <wish>)))
  1 (SBAR if/SCONJ (S (NP you/PRON) (VP would/AUX (VP like/VERB <wish>))))
wish
  3 <meal_short>
  3 (NP a/DET <before> <nominal>)
  2 (NP (NP a/DET <before?> <nominal>) <near>)
suggest
  3 <suggest_name>
  3 (S (VP <visit> <name> <location_plain?>))
suggest_name
  3 (S <name> (VP is/AUX (ADJP worth/ADJ (NP a/DET visit/NOUN))))
  1 (S <name> (VP is/AUX (NP a/DET good/ADJ choice/NOUN)))
  1 (S <name> (VP is/AUX (NP the/DET place/NOUN (SBAR (S (VP to/PART (VP go/VERB)))))))
"""

NOUN_PHRASES = """
place
  5 (NP a/DET <before> <nominal>)
  6 (NP (NP a/DET <before?> <nominal>) <location>)
  4 (NP (NP a/DET <before?> <nominal>) <after>)
  5 (NP (NP a/DET <before?> <nominal>) <location> <after>)
place_new
  3 (NP a/DET <before?> <type>)
  3 (NP (NP a/DET <before?> <type>) <location>)
  2 (NP (NP a/DET <before?> <type>) <after>)
  1 (NP (NP a/DET <generic>) <after>)
place_short
  4 (NP a/DET <before> <nominal>)
  1 (NP a/DET <type>)
place_subject
  3 (NP (NP a/DET <before> <nominal>) <location?>)
  2 (NP (NP the/DET <before?> <nominal>) <location>)
place_named
  2 (NP (NP a/DET <before?> <nominal>) <location>)
  1 (NP (NP a/DET <before?> <nominal>) <that>)
  2 (NP (NP one/NUM) (PP of/ADP (NP (NP the/DET <best> places/NOUN (S (VP to/PART (VP eat/VERB)))) <location_plain>)))
place_cheap
  1 (NP a/DET <price_low> <food_attribute?> <nominal>)
place_dear
  1 (NP a/DET <price_high> <food_attribute?> <nominal>)
nominal
  12 <type>
  1 <generic>
before
  3 <price_adjective>
  4 <food_attribute>
  4 <price_adjective> <food_attribute>
  3 <family_attribute>
  3 <family_attribute> <food_attribute>
  3 <price_adjective> ,/PUNCT <family_attribute>
  2 <price_low> and/CCONJ <family_yes>
  2 <price_high> but/CCONJ <family_yes>
  2 <area_attribute>
  1 <quality>
  2 <quality> <food_attribute>
  1 <quality> ,/PUNCT <family_yes>
  1 <quality> <area_attribute>
location
  6 <near>
  5 <area>
  6 <area> <near>
  2 (VP <located> <area> ,/PUNCT <near>)
  2 (VP <located> <near>)
  2 (VP <located> <area>)
location_plain
  3 <area> <near?>
  3 <near>
near
  8 (PP near/ADP <landmark>)
  3 (PP (ADVP close/ADV) to/ADP <landmark>)
  2 (PP (ADVP next/ADV) to/ADP <landmark>)
  2 (PP (ADVP not/PART far/ADV) from/ADP <landmark>)
  1 (PP (ADVP just/ADV) around/ADP (NP (NP the/DET corner/NOUN) (PP from/ADP <landmark>)))
  1 (PP opposite/ADP <landmark>)
  1 (PP beside/ADP <landmark>)
  1 (PP within/ADP (NP (NP walking/NOUN distance/NOUN) (PP of/ADP <landmark>)))
  1 (PP (NP a/DET short/ADJ walk/NOUN) from/ADP <landmark>)
area
  6 <area_at>
  3 (PP in/ADP (NP <area_name> area/NOUN))
after
  4 <that>
  4 (VP <serving> <meal>)
  4 (PP with/ADP <rating>)
  3 (PP with/ADP <prices>)
  2 (VP rated/VERB <rating_score> <by_customers?>)
  2 (PP with/ADP (NP <rating> and/CCONJ <prices>))
  2 (SBAR (WHADVP where/ADV) <family_clause>)
that
  1 (SBAR (WHNP that/PRON) (S <vp>))
which
  3 (SBAR (WHNP which/PRON) (S (VP is/AUX <near>)))
  2 (SBAR (WHNP which/PRON) (S (VP is/AUX (VP <located> <area>))))
  3 (SBAR (WHNP which/PRON) (S <vp>))
  1 (SBAR (WHADVP where/ADV) <family_clause>)
meal
  6 (NP <food_quality?> <food>)
  3 <food_with_dishes>
meal_short
  1 (NP <food_quality?> <food>)
rating
  6 (NP a/DET <rating_level> customer/NOUN rating/NOUN)
  2 (NP a/DET <rating_level> rating/NOUN)
  5 (NP (NP a/DET customer/NOUN rating/NOUN) (PP of/ADP <rating_score>))
  2 (NP (NP a/DET rating/NOUN) (PP of/ADP <rating_score>))
rating_plain
  2 (NP a/DET <rating_level> rating/NOUN)
  2 (NP (NP a/DET rating/NOUN) (PP of/ADP <rating_score>))
rating_low
  1 (NP a/DET <rating_poor> customer/NOUN rating/NOUN)
rating_high
  1 (NP a/DET <rating_good> customer/NOUN rating/NOUN)
prices
  5 (NP <price_fair> prices/NOUN)
  2 (NP a/DET <price_fair> price/NOUN range/NOUN)
  2 (NP a/DET <price_high> menu/NOUN)
  4 (NP (NP prices/NOUN) (PP of/ADP <amount>))
  2 (NP (NP a/DET price/NOUN range/NOUN) (PP of/ADP <amount>))
"""

VERB_PHRASES = """
vp
  9 <vp_food>
  6 <vp_place>
  6 <vp_rating>
  6 <vp_price>
  7 <family_predicate>
vp_other
  9 <vp_food>
  6 <vp_rating>
  6 <vp_price>
  7 <family_predicate>
vp_also
  8 <vp>
  2 (VP (ADVP also/ADV) <serves> <meal>)
  2 (VP (ADVP also/ADV) has/VERB <rating>)
  1 (VP (ADVP also/ADV) has/VERB <prices>)
  1 (VP is/AUX (ADVP also/ADV) (ADJP <price_adjective>))
  1 (VP is/AUX (ADVP also/ADV) <family_yes>)
vp_food
  6 (VP <serves> <meal>)
  2 (VP <serves> (NP (NP a/DET <range>) (PP of/ADP <meal_short>)))
  1 (VP specialises/VERB (PP in/ADP <meal_short>))
  1 (VP is/AUX (ADJP known/ADJ (PP for/ADP (NP its/PRON <food_quality?> <food>))))
vp_place
  4 (VP is/AUX (VP <located> <area> <near?>))
  3 (VP is/AUX (VP <located> <near>))
  3 (VP is/AUX <near>)
  2 (VP is/AUX <area> ,/PUNCT <near>)
  1 (VP can/AUX (VP be/AUX (VP found/VERB <location_plain>)))
  1 (VP <stands> <near>)
vp_rating
  6 (VP has/VERB <rating>)
  3 (VP is/AUX (VP rated/VERB <rating_score> <by_customers?>))
  1 (VP has/AUX (VP <earned> <rating_plain> <from_customers?>))
  1 (VP gets/VERB <rating_plain> <from_customers?>)
vp_price
  4 (VP has/VERB <prices>)
  3 (VP is/AUX (ADJP <price_adjective>))
  1 (VP is/AUX (ADJP <price_high> but/CCONJ worth/ADJ (NP it/PRON)))
  2 (VP is/AUX (ADJP both/CCONJ <price_low> and/CCONJ <family_yes>))
  2 (VP is/AUX (ADJP <price_fair> (PP in/ADP (NP price/NOUN))))
  2 (VP charges/VERB <amount> <per_meal>)
  2 (VP offers/VERB (NP <course>) (PP for/ADP <amount>))
participle
  3 serving/VERB <meal_short>
  2 offering/VERB <meal_short>
  2 (ADVP conveniently/ADV) located/VERB <location_plain>
front
  5 <front_place>
  8 <front_loose>
front_loose
  2 (PP with/ADP <rating>)
  2 (PP with/ADP <prices>)
  3 (VP located/VERB <location_plain>)
  2 (VP situated/VERB <location_plain>)
  2 (VP rated/VERB <rating_score> <by_customers?>)
front_place
  6 <front_single>
  1 <area_at> ,/PUNCT <near>
front_single
  4 (PP near/ADP <landmark>)
  2 (PP (ADVP close/ADV) to/ADP <landmark>)
  1 (PP (ADVP not/PART far/ADV) from/ADP <landmark>)
  4 <area_at>
for_food
  3 (PP for/ADP <meal>)
  1 (PP for/ADP (NP (NP a/DET <occasion>) (PP of/ADP <meal_short>)))
by_customers
  3 (PP by/ADP (NP its/PRON customers/NOUN))
  2 (PP by/ADP (NP customers/NOUN))
from_customers
  3 (PP from/ADP (NP its/PRON customers/NOUN))
  1 (PP from/ADP (NP visitors/NOUN))
per_meal
  3 (PP for/ADP (NP a/DET meal/NOUN))
  2 (PP per/ADP (NP person/NOUN))
  1 (PP for/ADP (NP a/DET main/ADJ course/NOUN))
"""

REMARKS = """
remark
  3 (S (NP the/DET staff/NOUN) (VP are/AUX (ADJP <staff> and/CCONJ <staff_b>)))
  3 (S (NP the/DET <room>) (VP is/AUX (ADJP <mood>)))
  3 (S (NP the/DET <room>) (VP is/AUX (ADJP <room_size> but/CCONJ <mood>)))
  2 (S (NP the/DET portions/NOUN) (VP are/AUX (ADJP <portion>)))
  2 (S (NP there/PRON) (VP is/AUX (NP (NP a/DET <outdoor>) (PP at/ADP (NP the/DET back/NOUN)))))
  2 (S (NP it/PRON) (VP has/VERB (NP (NP a/DET <outdoor>) (PP with/ADP (NP a/DET <view> view/NOUN)))))
  2 (S (NP live/ADJ <music>) (VP is/AUX (VP played/VERB <evening>)))
  1 (S (NP the/DET walls/NOUN) (VP are/AUX (VP covered/VERB (PP with/ADP (NP <decor>)))))
  2 (S (NP the/DET menu/NOUN) (VP changes/VERB (NP every/DET <period>)))
  1 (S (NP the/DET <special>) (VP is/AUX (ADJP worth/ADJ (S (VP trying/VERB)))))
  1 (S (NP many/ADJ <people>) (VP come/VERB (ADVP back/ADV) (NP every/DET <period>)))
remark_b
  4 (S (NP the/DET service/NOUN) (VP is/AUX (ADJP <speed>)))
  2 (S (NP the/DET service/NOUN) (VP is/AUX (ADVP never/ADV) (ADJP slow/ADJ)))
  2 (S (NP the/DET tables/NOUN) (VP are/AUX (ADVP always/ADV) (ADJP clean/ADJ)))
  2 (S (NP the/DET owner/NOUN) (VP greets/VERB (NP every/DET guest/NOUN)))
  1 (S (NP parking/NOUN) (VP is/AUX (ADJP free/ADJ)))
  1 (S (NP you/PRON) (VP will/AUX not/PART (VP leave/VERB (ADJP hungry/ADJ))))
"""

WORDS = """
generic: 4 place/NOUN | 2 venue/NOUN | 1 spot/NOUN | 1 establishment/NOUN
quality: 3 popular/ADJ | 3 lovely/ADJ | 2 charming/ADJ | 2 cosy/ADJ | 2 pleasant/ADJ | 2 small/ADJ | 2 busy/ADJ | quiet/ADJ
  | stylish/ADJ | modern/ADJ | beautiful/ADJ | elegant/ADJ
best: 3 best/ADJ | finest/ADJ | nicest/ADJ
located: 2 located/VERB | situated/VERB
stands: 2 stands/VERB | sits/VERB | lies/VERB
modal: 2 can/AUX | will/AUX
should: 2 should/AUX | can/AUX
visit: try/VERB | visit/VERB
enjoy: 3 enjoy/VERB | 2 eat/VERB | order/VERB
serves: 6 serves/VERB | 3 offers/VERB | sells/VERB | provides/VERB
serving: 2 serving/VERB | offering/VERB
lists: lists/VERB | features/VERB | includes/VERB
range: 2 wide/ADJ range/NOUN | great/ADJ selection/NOUN | good/ADJ variety/NOUN
earned: 2 earned/VERB | received/VERB
occasion: 2 plate/NOUN | lunch/NOUN
crowd: locals/NOUN | students/NOUN | tourists/NOUN | young/ADJ people/NOUN
cook: 2 chef/NOUN | kitchen/NOUN | cook/NOUN
such_as: 3 such/ADJ as/ADP | 2 like/ADP | 2 including/VERB
food_noun: 7 food/NOUN | 2 dishes/NOUN | 2 meals/NOUN | cuisine/NOUN
food_quality: 3 delicious/ADJ | 2 tasty/ADJ | 2 fresh/ADJ | 2 traditional/ADJ | authentic/ADJ | excellent/ADJ | simple/ADJ
  | hearty/ADJ | homemade/ADJ | wonderful/ADJ
course: 3 meals/NOUN | 2 main/ADJ courses/NOUN | set/ADJ menus/NOUN
meal_word: 4 meal/NOUN | 2 dinner/NOUN | lunch/NOUN | 2 main/ADJ course/NOUN
bill: 2 food/NOUN | menu/NOUN | wine/NOUN list/NOUN
usually: 2 (ADVP usually/ADV) | (ADVP generally/ADV) | (ADVP often/ADV)
staff: polite/ADJ | helpful/ADJ | attentive/ADJ
staff_b: welcoming/ADJ | cheerful/ADJ | efficient/ADJ | friendly/ADJ
room: 2 atmosphere/NOUN | dining/NOUN room/NOUN | decor/NOUN
room_size: simple/ADJ | modest/ADJ | plain/ADJ
mood: relaxed/ADJ | warm/ADJ | inviting/ADJ | bright/ADJ | comfortable/ADJ | romantic/ADJ
portion: 2 generous/ADJ | large/ADJ | big/ADJ (ADVP enough/ADV) (PP for/ADP (NP two/NUM))
outdoor: 2 garden/NOUN | terrace/NOUN | courtyard/NOUN
view: splendid/ADJ | fine/ADJ | magnificent/ADJ
music: 2 music/NOUN | jazz/NOUN
evening: 2 (PP on/ADP (NP <day> evenings/NOUN)) | (NP every/DET night/NOUN) | (PP at/ADP (NP weekends/NOUN))
day: Friday/PROPN | Saturday/PROPN | Thursday/PROPN
decor: vintage/ADJ photographs/NOUN | colourful/ADJ paintings/NOUN | mirrors/NOUN
period: week/NOUN | month/NOUN | season/NOUN
people: people/NOUN | locals/NOUN | regulars/NOUN
special: daily/ADJ special/NOUN | dessert/NOUN menu/NOUN | house/NOUN wine/NOUN | homemade/ADJ cake/NOUN
speed: quick/ADJ | prompt/ADJ | excellent/ADJ | reliable/ADJ
booking: (PP in/ADP (NP advance/NOUN)) | (ADVP online/ADV) | (PP by/ADP (NP phone/NOUN))
  | (PP for/ADP (NP the/DET weekend/NOUN))
hours: 2 (NP every/DET day/NOUN) | (PP until/ADP (NP midnight/NOUN)) | (ADVP late/ADV) (PP at/ADP (NP weekends/NOUN))
  | (PP for/ADP (NP breakfast/NOUN and/CCONJ lunch/NOUN)) | (PP from/ADP (NP noon/NOUN)) | all/DET day/NOUN
"""
