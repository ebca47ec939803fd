"""--init: which network starts from what."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fewmask.engine.checkpoint import Snapshot, Store
from fewmask.engine.flatten import networks_to_flat
from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets import Builder
from fewmask.nets.running import RunningMean
from fewmask.ops.ema import ema_copy
from fewmask.run.init import start_from


def net(name: str, seed: int, classes: int = 3):
    return Builder("tiny", "tiny", classes, weights="none", seed=seed)(name)


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def source(tmp_path):
    """A run that trained f1 and f2."""
    nets = {"f1": net("f1", 5), "f2": net("f2", 5)}
    Store(tmp_path / "run").save(Snapshot(3, networks_to_flat(nets), {}, {}))
    return tmp_path / "run", nets


def test_networks_of_the_same_name_are_taken_over(source):
    run, old = source
    fresh = {"f1": net("f1", 0), "f2": net("f2", 0)}
    lines = []
    start_from(fresh, run, lines.append)
    assert equal(fresh["f1"], old["f1"]) and equal(fresh["f2"], old["f2"]) and len(lines) == 2


def test_a_run_that_delivered_its_baseline_hands_that_on(source):
    """The better arm is what one goes on from; the method's own networks are not."""
    run, old = source
    donor = net("x", 7)
    (run / "model").mkdir()
    save_file(donor.state_dict(), run / "model" / "model.safetensors")
    for arm, expected in (("method", old["f1"]), ("baseline", donor)):
        (run / "metrics.json").write_text(json.dumps({"delivered": {"run": arm}}))
        fresh = {"f1": net("f1", 0), "f2": net("f2", 0)}
        start_from(fresh, run, lambda text: None)
        assert equal(fresh["f1"], expected)


def test_from_a_file_the_second_network_gets_the_encoder_only(tmp_path):
    donor = net("x", 7)
    save_file(donor.state_dict(), tmp_path / "m.safetensors")
    fresh = {"f1": net("f1", 0), "f2": net("f2", 0)}
    start_from(fresh, tmp_path / "m.safetensors", lambda text: None)
    assert equal(fresh["f1"], donor) and equal(fresh["f2"].encoder, donor.encoder)
    assert not equal(fresh["f2"].head, donor.head)


def test_a_teacher_starts_with_its_student(tmp_path):
    donor = net("x", 7)
    save_file(donor.state_dict(), tmp_path / "m.safetensors")
    student = net("student", 0)
    fresh = {"student": student, "teacher": ema_copy(student)}
    start_from(fresh, tmp_path / "m.safetensors", lambda text: None)
    assert equal(fresh["student"], donor) and equal(fresh["teacher"], donor)


def test_what_does_not_fit_is_refused(source, tmp_path):
    with pytest.raises(CheckpointError, match="network 'f1' does not fit"):
        start_from({"f1": net("f1", 0, classes=4)}, source[0], lambda text: None)
    with pytest.raises(CheckpointError, match="no networks to start from"):
        start_from({"f1": net("f1", 0)}, tmp_path, lambda text: None)
    with pytest.raises(ConfigError, match="does not exist"):
        start_from({"f1": net("f1", 0)}, tmp_path / "no.safetensors", lambda text: None)


def test_statistics_of_the_data_are_not_taken_over(tmp_path):
    donor = net("x", 7)
    save_file(donor.state_dict(), tmp_path / "m.safetensors")
    fresh = {"student": net("student", 0), "predicted": RunningMean((0.2, 0.3, 0.5))}
    start_from(fresh, tmp_path / "m.safetensors", lambda text: None)
    assert equal(fresh["student"], donor)
    assert fresh["predicted"].mean.tolist() == pytest.approx([0.2, 0.3, 0.5])
