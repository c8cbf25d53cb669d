"""``posttrain doctor``: what works on this machine."""

import typer

MARKS = {"ok": "[green]ok[/green]", "absent": "[yellow]-[/yellow]", "wrong": "[red]wrong[/red]"}


def doctor() -> None:
    """Say what works on this machine, and what to install for the rest. Exit status 1: no run can work."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from posttrain.starter.doctor import examine

    console = Console(width=80, highlight=False, emoji=False)
    table = Table.grid(padding=(0, 2))
    findings = list(examine())
    for finding in findings:
        table.add_row(MARKS[finding.state], finding.name, Text(finding.what))
        if finding.advice:
            table.add_row("", "", Text(finding.advice, "dim"))
    console.print(table)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
