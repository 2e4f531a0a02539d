"""One line of the result: what was measured on both sides, the ratio, and whether it holds its bar."""
from dataclasses import dataclass, field
from statistics import median

RSS_BAR_MIB = 150


@dataclass
class Side:
    """The rounds of one server in one cell."""

    name: str
    values: list = field(default_factory=list)
    costs: list = field(default_factory=list)

    def add(self, value, cost=None):
        self.values.append(value)
        if cost is not None:
            self.costs.append(cost)

    def value(self):
        return median(self.values)

    def cost(self):
        return median(self.costs) if self.costs else None


@dataclass
class Row:
    """A cell. `bar` is (">=", 1.0) or ("<=", 1.1), or None where the ratio is only shown."""

    cell: str
    unit: str
    cost_unit: str
    ours: Side
    peer: Side = None
    bar: tuple = None
    peak_mib: float = None
    others: float = None
    note: str = ""

    def ratio(self):
        """Rounds are pairs: the median of their ratios is what noise moves least."""
        if self.peer is None:
            return None
        return median(our / their for our, their in zip(self.ours.values, self.peer.values, strict=True))

    def judged(self):
        """The figure that the bar is about: the ratio where there is a peer."""
        return self.ratio() if self.peer else self.ours.value()

    def misses(self):
        missed = []
        if self.bar:
            sign, limit = self.bar
            figure = self.judged()
            if not (figure >= limit if sign == ">=" else figure <= limit):
                missed.append(f"{self.cell}: {figure:.2f} is not {sign} {limit:g}")
        if self.peak_mib is not None and self.peak_mib >= RSS_BAR_MIB:
            missed.append(f"{self.cell}: peak memory {self.peak_mib:.0f} MiB is not < {RSS_BAR_MIB}")
        return missed

    def cells(self):
        def number(value, digits=1):
            return "" if value is None else f"{value:,.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"

        ratio = self.ratio()
        spread = ""
        if ratio is not None:
            ratios = [our / their for our, their in zip(self.ours.values, self.peer.values)]
            spread = f" ({min(ratios):.2f}-{max(ratios):.2f})"
        return [
            self.cell,
            f"{number(self.ours.value())} {self.unit}".strip(),
            f"{self.peer.name}: {number(self.peer.value())}" if self.peer else "",
            f"{ratio:.2f}{spread}" if ratio is not None else "",
            f"{self.bar[0]} {self.bar[1]:g}" if self.bar else "",
            "" if not self.bar else "no" if self.misses() else "yes",
            number(self.ours.cost(), 2),
            number(self.peer.cost(), 2) if self.peer else "",
            self.cost_unit if self.ours.costs else "",
            number(self.peak_mib, 0),
            "" if self.others is None else f"{self.others:.1f}",
        ]


HEAD = ["cell", "hubgate", "peer", "ratio (range)", "bar", "holds", "CPU", "peer's CPU", "CPU is", "peak MiB", "other load"]


def markdown(rows):
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
