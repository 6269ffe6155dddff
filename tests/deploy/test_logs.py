import numpy as np
import pytest

from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.logs.npz import EpisodeLog, LogInfo, TickFlag, read_logs, stamp_of
from sim2real.deploy.robots.base import ActuatorDescription, RobotDescription, TermDescription
from sim2real.types import InputError


def episode(T=5, k=0, reward=True, started=0.0):
    rng = np.random.default_rng(k)
    robot = RobotDescription(
        "point",
        (TermDescription("a", 2, "rad", ("x", "y")), TermDescription("b", 1, "m", ())),
        ActuatorDescription(("u", "v"), "N", (-1.0, -1.0), (1.0, 1.0)),
        0.01,
        False,
        reward,
        T,
    )
    z = AdaptedState(2, "c" * 64, "context", ("m",), (0.1 + 0.2,), (0.1,), True, 1, 2.0, 0)
    info = LogInfo(
        schema=1,
        started=stamp_of(started),
        episode=k,
        robot=robot,
        commands=("v", "u"),
        artifact="c" * 64,
        artifact_name="pd",
        z=z if k else None,
        seed=3,
        excitation=0.0,
        terminated=False,
        truncated=True,
        stopped=None,
    )
    return EpisodeLog(
        info,
        {"a": rng.normal(size=(T + 1, 2)), "b": rng.normal(size=(T + 1, 1))},
        np.arange(T + 1),
        np.arange(T + 1) * 0.01,
        rng.normal(size=(T, 2)),
        rng.normal(size=(T, 2)),
        rng.normal(size=T) if reward else None,
        rng.random(T),
        np.full(T, np.nan),
        np.full(T, int(TickFlag.LIMITED), np.uint8),
    )


def assert_same(a: EpisodeLog, b: EpisodeLog):
    assert a.info == b.info
    for name in (
        "seq",
        "stamp",
        "command",
        "raw",
        "reward",
        "inference_us",
        "lateness_us",
        "flags",
    ):
        if getattr(a, name) is None:
            assert getattr(b, name) is None
        else:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.obs.keys() == b.obs.keys()
    for name, value in a.obs.items():
        np.testing.assert_array_equal(value, b.obs[name])


@pytest.mark.parametrize(("T", "reward"), [(5, True), (1, False), (0, True)])
def test_a_log_reads_back_as_it_was(tmp_path, T, reward):
    log = episode(T, k=1, reward=reward)
    assert_same(EpisodeLog.read(log.write(tmp_path / "new" / "folder")), log)


def test_logs_come_in_the_order_of_time(tmp_path):
    for started, k in ((7.0, 0), (5.0, 0), (5.0, 1), (1e9, 0)):
        episode(k=k, started=started).write(tmp_path)
    logs = read_logs(tmp_path)
    assert [(log.info.started, log.info.episode) for log in logs] == [
        ("19700101T000005.000000Z", 0),
        ("19700101T000005.000000Z", 1),
        ("19700101T000007.000000Z", 0),
        ("20010909T014640.000000Z", 0),
    ]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    assert_same(read_logs(files[2])[0], logs[2])
    assert len(read_logs(files[:3])) == 3


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = episode().write(tmp_path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        episode(T=9).write(tmp_path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def test_missing_logs_are_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no logs \(\*\.npz\)"):
        read_logs(tmp_path)
    path = episode().write(tmp_path)
    with pytest.raises(InputError, match=f"there is no log at .*did you mean '{path.name}'"):
        read_logs(path.with_suffix(".npy"))
    with pytest.raises(InputError, match="there is no log at"):
        read_logs(tmp_path / "a" / "b")


def test_a_damaged_log_is_refused_and_never_half_read(tmp_path):
    path = episode().write(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a whole NPZ file"):
            EpisodeLog.read(path)
    refused = 0
    for at in rng.integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            EpisodeLog.read(path)
        except InputError:
            refused += 1
    assert refused > 200  # the zip format has bytes that mean nothing; all others have a checksum


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda a: a.pop("info"), "'info' is missing"),
        (lambda a: a.pop("command"), "'command' is missing"),
        (lambda a: a.pop("obs/a"), "'obs/a' is missing"),
        (lambda a: a.pop("reward"), "'reward' is missing"),
        (lambda a: a.update(comand=np.zeros(2)), "unknown array 'comand'.*did you mean 'command'"),
        (lambda a: a.update(seq=np.zeros(5)), r"'seq' has shape \(5,\); \(6,\)"),
        (lambda a: a.update({"obs/a": np.zeros((6, 3))}), r"'obs/a' has shape \(6, 3\); \(6, 2\)"),
        (lambda a: a.update(command=np.zeros(5)), "shape"),
        (
            lambda a: a.update(info=str(a["info"]).replace('"schema": 1', '"schema": 7', 1)),
            "schema 7",
        ),
        (lambda a: a.update(info="{"), "not JSON"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, edit, sentence):
    path = episode().write(tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    edit(arrays)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=sentence):
        EpisodeLog.read(path)


def test_other_files_are_no_logs(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(InputError, match="not a whole NPZ file"):
        read_logs(tmp_path)
