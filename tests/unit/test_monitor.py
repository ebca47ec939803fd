"""fewmask.ops.monitor: what it says, once, and what it leaves unsaid."""

from __future__ import annotations

from fewmask.ops.monitor import Monitor

PRIOR = [0.6, 0.38, 0.02]


def heard(records: list[dict], prior: list[float] | None = PRIOR) -> list[str]:
    said: list[str] = []
    monitor = Monitor(["sky", "sea", "pole"], prior, said.append)
    for n, record in enumerate(records, start=1):
        monitor.record({"step": 10 * n, **record})
    return said


def test_healthy_labels_say_nothing() -> None:
    wild = [{"kept": 0.5, "pseudo": p} for p in ([0.9, 0.1, 0.0], [0.3, 0.64, 0.06]) for _ in (0,)] * 50
    assert heard(wild) == []  # batches differ, their average does not


def test_a_vanished_class_is_named_once() -> None:
    said = heard([{"kept": 0.5, "pseudo": [0.61, 0.39, 0.0]}] * 60)
    assert said == [
        "WARNING: step 200: class 'pole' vanishes from the pseudo-labels (0.00% of the pseudo-labels, "
        "2.00% of the labelled pixels)"
    ]


def test_a_class_that_fades_is_found_when_it_is_gone() -> None:
    fading = [{"kept": 0.5, "pseudo": [0.6 + d, 0.38, 0.02 - d]} for d in [0.0] * 40 + [0.02] * 40]
    (said,) = heard(fading)
    step = int(said.split()[2].rstrip(":"))
    assert 400 < step < 700  # after it went, not before


def test_a_class_that_takes_over_is_named() -> None:
    (said, other) = heard([{"kept": 0.9, "pseudo": [0.99, 0.01, 0.0]}] * 30)[:2]
    assert "'sky' takes over" in said and "'sea' vanishes" in other


def test_starved_by_the_threshold() -> None:
    nothing = [{"kept": 0.001, "pseudo": [0.0, 0.0, 0.0]}] * 30
    assert heard(nothing) == ["WARNING: step 200: 0.1% of the unlabelled pixels train: lower the threshold"]


def test_what_is_over_is_said() -> None:
    """First labels are often of one class alone: the average of 30 records without sea, then 30 with it."""
    said: list[str] = []
    monitor = Monitor(["sky", "sea", "pole"], PRIOR, said.append)
    for n in range(1, 61):
        monitor.record({"step": 10 * n, "kept": 0.5, "pseudo": [0.99, 0.0, 0.01] if n <= 30 else [0.6, 0.38, 0.02]})
    assert [text.partition(" (")[0] for text in said] == [
        "WARNING: step 200: class 'sky' takes over the pseudo-labels",
        "WARNING: step 200: class 'sea' vanishes from the pseudo-labels",
        "step 330: class 'sea' has a share of the pseudo-labels again",  # .38(1 - .9^3) = .103, twice .038 is .076
        "step 410: class 'sky' has a share of the pseudo-labels again",  # .6 + .39·.9^11 = .722, half of .25 above .6
    ]
    assert [(one.step, one.until) for one in monitor.found] == [(200, 410), (200, 330)]


def test_what_is_over_may_begin_again() -> None:
    gone, there = {"kept": 0.5, "pseudo": [0.62, 0.38, 0.0]}, {"kept": 0.5, "pseudo": [0.6, 0.38, 0.02]}
    said = heard([gone] * 30 + [there] * 30 + [gone] * 60)
    assert ["WARNING" in text for text in said] == [True, False, True]


def test_starved_no_more() -> None:
    """.5(1 - .9^n) passes .02, twice the limit, with the first record."""
    (first, over) = heard([{"kept": 0.0}] * 30 + [{"kept": 0.5}] * 5, prior=None)
    assert first.endswith("lower the threshold") and over == "step 310: 5.0% of the unlabelled pixels train"


def test_without_prior_or_pseudo_labels() -> None:
    assert heard([{"kept": 1.0, "pseudo": [1.0, 0.0, 0.0]}] * 40, prior=None) == []
    assert heard([{"loss": 1.0}] * 40) == []
