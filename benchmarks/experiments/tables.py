"""Tables and curves of studies, from their JSON into the pages that name them.

A page holds ``<!-- study: NAME -->`` and ``<!-- end -->``; what stands between is written by ``tables``. So for
``<!-- claims: NAME -->`` and ``<!-- divergence: NAME -->``: the papers' ablations beside that study's arms.
"""

from __future__ import annotations

import json
import math
import re
from statistics import fmean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.experiments.claims import claims_block, divergence_block  # noqa: E402
from benchmarks.experiments.same import is_current  # noqa: E402
from benchmarks.experiments.study import HERE  # noqa: E402

DOCS = HERE.parents[1] / "docs"
PAGES = ("results.md", "development.md")
BASELINE = "supervised"
_BLOCK = re.compile(r"(<!-- (study|claims|divergence): ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Record = dict[str, Any]


def write_tables() -> None:
    """Renew every block of the pages, and the figures that they show."""
    for name in PAGES:
        page = DOCS / name
        text = page.read_text(encoding="utf-8")
        page.write_text(_BLOCK.sub(lambda m: m[1] + _MAKE[m[2]](m[3]) + m[4], text), encoding="utf-8")


def block(study: str) -> str:
    """Return the Markdown of one study: for each data set a table, a table of classes, and a figure."""
    records = newest(study)
    if not records:
        return "\nNot run yet.\n\n"
    out = []
    for data in dict.fromkeys(r["data"] for r in records):
        mine = [r for r in records if r["data"] == data]
        out += [_heading(data, mine), "", *_scores(mine), "", *_classes(mine), ""]
        if any(len(r["curve"]) > 1 for r in mine):
            out += [f"![Val mIoU over the steps](figures/{_figure(study, data, mine)})", ""]
    return "\n" + "\n".join(out) + "\n"


def claims(study: str) -> str:
    """Return the Markdown of the papers' claims that a study repeats; "ARM after ROUND" is a round of an arm's runs."""
    scores: dict[str, dict[tuple[int, int], float]] = {}
    records = newest(study)
    for r in records:
        role = _role(records)
        scores.setdefault(r["arm"], {})[_pair(r)] = _miou(r, role)
        for one in r["metrics"].get("rounds") or ():
            scores.setdefault(f"{r['arm']} after {one['name']}", {})[_pair(r)] = one[role]["miou"]
    return claims_block(study, scores)


def divergences(study: str) -> str:
    """Return the Markdown of how the first pseudo-labels of a study's arms are spread over the classes."""
    found: dict[str, list[float]] = {}
    for r in newest(study):
        for labels in [one["labels"] for one in r["metrics"].get("rounds") or () if one["labels"]][:1]:
            if labels["divergence"] is not None:
                found.setdefault(r["arm"], []).append(labels["divergence"])
    return divergence_block(study, found)


def newest(study: str) -> list[Record]:
    """Return the results of a study; of one configuration under several sources the current one, else the last.

    Their keys are those of the study: an older result says nothing of keys that came later.
    """
    from benchmarks.experiments.study import read_study

    spelled = {e.config_key(): e.keys for e in read_study(study)}
    found: dict[str, Record] = {}
    for path in sorted((HERE / "results" / study).glob("*.json"), key=lambda p: p.stat().st_mtime):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["keys"] = spelled.get(record["config_key"], record["keys"])
        old = found.get(record["config_key"])
        if old is None or not _current(old):
            found[record["config_key"]] = record
    order = {arm: n for n, arm in enumerate(dict.fromkeys(_arms(study)))}
    return sorted(found.values(), key=lambda r: (order.get(r["arm"], len(order)), _pair(r)))


def _arms(study: str) -> list[str]:
    from benchmarks.experiments.study import read_study

    return [e.arm for e in read_study(study)]


def _current(record: Record) -> bool:
    return is_current(record["keys"], record["data"], record["source_hash"])


def _role(records: list[Record]) -> str:
    """Return the role that is reported: test where there is one."""
    return "test" if records[0]["metrics"]["test"] is not None else "val"


def _heading(data: str, records: list[Record]) -> str:
    r, m = records[0], records[0]["manifest"]
    masks = " or ".join(str(n) for n in sorted({x["manifest"]["labelled"] for x in records}))
    sources = sorted({x["commit"] for x in records})
    cpu, threads = r["environment"]["cpu"], r["environment"]["threads"]
    return (
        f"**{data}**: {masks} masks, {m[_role(records)]} images scored ({_role(records)}), protocol "
        f"`{r['metrics']['protocol']}`, last checkpoint, data `{m['data_hash']}`, precision {r['precision']}, "
        f"{threads} thread of {r['environment']['cores']} {cpu} cores, torch {r['environment']['packages']['torch']}, "
        f"commit {', '.join(sources)}."
    )


def _scores(records: list[Record]) -> list[str]:
    role = _role(records)
    base = {_pair(r): _miou(r, role) for r in records if r["arm"] == BASELINE}
    lines = [f"| arm | steps | {role} mIoU | runs | gain, paired | best on val | kept | minutes |", "|---" * 8 + "|"]
    for arm in dict.fromkeys(r["arm"] for r in records):
        mine = [r for r in records if r["arm"] == arm]
        scores = [_miou(r, role) for r in mine]
        pairs = [_miou(r, role) - base[p] for r in mine if (p := _pair(r)) in base]
        best = [r["metrics"]["best"][role]["miou"] for r in mine]
        kept = [k for r in mine for _, k in r["kept"][-5:]]
        minutes = fmean(r["metrics"]["seconds"] for r in mine) / 60
        older = "" if all(_current(r) for r in mine) else " †"
        lines.append(
            f"| {arm}{older} | {mine[0]['metrics']['steps']} | {_spread(scores)} | {len(mine)} "
            f"| {_spread(pairs, '+') if pairs and arm != BASELINE else '–'} | {fmean(best):.2f} "
            f"| {f'{fmean(kept):.0%}' if kept else '–'} | {minutes:.1f} |"
        )
    if any("†" in line for line in lines):
        lines += ["", "† made by an older source than this tree's."]
    return lines


def _pair(record: Record) -> tuple[int, int]:
    """Return what two runs that are compared must share: the draw of the labelled images, and the seed."""
    return record["keys"].get("data.split_seed", 0), record["keys"]["train.seed"]


def _miou(record: Record, role: str) -> float:
    return record["metrics"][role]["miou"]


def _spread(values: list[float], sign: str = "") -> str:
    """Return mean ± standard deviation over the runs."""
    return f"{fmean(values):{sign}.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _classes(records: list[Record]) -> list[str]:
    role = _role(records)
    names = list(records[0]["metrics"][role]["iou"])
    lines = ["| IoU | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm in dict.fromkeys(r["arm"] for r in records):
        mine = [r["metrics"][role]["iou"] for r in records if r["arm"] == arm]
        means = [math.nan if any(m[n] is None for m in mine) else fmean(m[n] for m in mine) for n in names]
        lines.append(f"| {arm} | " + " | ".join("–" if math.isnan(v) else f"{v:.1f}" for v in means) + " |")
    return lines


def _figure(study: str, data: str, records: list[Record]) -> str:
    """Draw the mean val curve of each arm; return the file's name."""
    with plt.rc_context({"svg.hashsalt": study, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=(7, 4))
        for arm in dict.fromkeys(r["arm"] for r in records):
            curves = [{p["step"]: p["val"] for p in r["curve"] if p["val"] is not None}
                      for r in records if r["arm"] == arm]  # fmt: skip
            steps = sorted(set.intersection(*(set(c) for c in curves)))
            if steps:
                axes.plot(steps, [fmean(c[s] for c in curves) for s in steps], marker=".", label=arm)
        axes.set(xlabel="step", ylabel="val mIoU (%)", title=f"{study}: {data}")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
        name = f"{study}-{data}.svg"
        (DOCS / "figures").mkdir(exist_ok=True)
        figure.savefig(DOCS / "figures" / name, metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
    return name


_MAKE = {"study": block, "claims": claims, "divergence": divergences}
