"""Tables of pages that come from the code: features, policies, orders."""

from __future__ import annotations

from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES, Feature, ObservationLayout
from cace_env.policies import ORDERS, POLICIES, READINGS
from cace_env.policies.built_in import AS_QUOTED, GROUPS
from cace_env.policies.quoted import NAME as AS_IN_REVIEW
from cace_env.policies.quoted import PARTS, Quoted
from experiments.reading.markdown import table


def describe_features(features: tuple[Feature, ...]) -> str:
    """Features as a Markdown table: column, name, unit, how it is scaled, meaning."""
    rows = []
    for column, feature in enumerate(features):
        over = "" if feature.scale == 1.0 else f" / {feature.scale:g}"
        scaled = f"log1p(x{over})" if feature.log else f"x{over}"
        if feature.signed and feature.log:
            scaled = f"sign(x) log1p(abs(x){over})"
        rows.append((str(column), f"`{feature.name}`", feature.unit, scaled, feature.doc))
    return table(("column", "feature", "unit", "in the observation", "meaning"), rows)


def layout_tables(layout: ObservationLayout) -> str:
    """A layout as Markdown tables, one per block."""
    blocks = (
        (f"`{layout.max_slots}` slots", 0, layout.max_slots, SLOT_FEATURES),
        (
            f"`{layout.max_pending}` pending models, oldest request first",
            layout.slots_end,
            layout.max_pending,
            PENDING_FEATURES,
        ),
        ("context", layout.pending_end, 1, CONTEXT_FEATURES),
    )
    return "\n\n".join(
        f"**{title}**: {rows} x {len(features)} numbers from position {start}\n\n{describe_features(features)}"
        for title, start, rows, features in blocks
    )


def orders_table() -> str:
    """All orders as a Markdown table: the part of `docs/policies.md` that is generated."""
    rows = [(f"`{row.name}`", row.description, row.source) for row in ORDERS.values()]
    return table(("order", "loads", "source"), rows)


def policies_table() -> str:
    """All policies as Markdown, one table per group: the part of `docs/policies.md` that is generated."""
    parts = []
    for group in GROUPS:
        members = [row for row in POLICIES.values() if row.group == group]
        if group == AS_QUOTED:
            members = [READINGS[AS_IN_REVIEW]]
        rows = [(f"`{row.name}`", row.description, row.source, row.differs) for row in members]
        parts += [f"### {group}", table(("policy", "evicts", "source", "differs from it"), rows)]
    return "\n\n".join(parts)


def options_table() -> str:
    """The options as Markdown, with the parts of names that set them, for `docs/policies.md`."""
    rows = []
    for option, field in Quoted.model_fields.items():
        if option == "description":
            continue
        parts = PARTS.get(option, {})
        named = "; ".join(f"{value}: {f'`{part}`' if part else 'nothing'}" for part, value in parts.items())
        rows.append((f"`{option}`", f"{field.default}", named or "-", field.description or ""))
    return table(("option", "in `cace-quoted`", "values and what they add to the name", "meaning"), rows)
