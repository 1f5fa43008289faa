"""Result: one row of the table."""

from typing import NamedTuple


class Result(NamedTuple):
    """What came of one piece of work with one set of mount options."""

    work: str
    options: str
    amount: str
    seconds: float
    outcome: str
    is_well: bool = True
    """Also where it failed for a reason that is known and written down."""

    @staticmethod
    def head() -> str:
        """The head of the table, in Markdown."""
        return "| work | options | amount | seconds | result |\n| --- | --- | --- | ---: | --- |"

    def row(self) -> str:
        """Its row; what does not fit into one stands below it."""
        first, _, rest = self.outcome.partition("\n")
        outcome = first if self.is_well else f"FAILED: {first}"
        row = f"| {self.work} | {self.options} | {self.amount} | {self.seconds:.0f} | {outcome} |"
        return f"{row}\n{rest}" if rest else row
