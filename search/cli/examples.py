"""Examples under each command's help."""

from __future__ import annotations

from rich.markup import escape


def examples(*pairs: str) -> str:
    """The epilog of a command from command, remark, command, remark: one example per line,
    the remarks aligned."""
    assert len(pairs) % 2 == 0, "each example is a command and a remark"
    commands, remarks = pairs[::2], pairs[1::2]
    width = max(len(command) for command in commands)
    wide = width + max(len(remark) for remark in remarks) > 74  # too long for 80 columns: remarks go above
    lines = ["[bold]Examples[/]"]
    for command, remark in zip(commands, remarks, strict=True):
        note, shown = f"[dim]# {escape(remark)}[/]", f"[cyan]{escape(command)}[/]"
        lines += ([f"  {note}", f"  {shown}"] if wide
                  else [f"  {shown}{' ' * (width - len(command) + 2)}{note}"])
    return "\n".join(lines)
