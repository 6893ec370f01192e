"""Invariants of training that the released codes break, and equalities with torch itself."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from subnetwork.algorithm import rounds
from subnetwork.deals import Full, Perm
from subnetwork.experiments import training
from subnetwork.experiments.training import merged, train
from subnetwork.methods import Training
from subnetwork.methods.rows import METHODS, method, task
from subnetwork.nets import (
    MLP,
    SGD,
    Gradients,
    Layout,
    LocalSteps,
    NetSketch,
    Outer,
    StepOnGradients,
    initial_state,
)
from subnetwork.nets.architecture import runnable
from subnetwork.nets.calibrate import accuracy
from subnetwork.nets.local import MOMENTUM
from subnetwork.runtime import here

ANYWHERE = [m for m in METHODS if m not in ("narrow", "masked_relu", "gist", "resist")]
SMALL = Training(hidden=(24, 16), workers=3, rounds=4, local_steps=3, batch_size=16, seed=1)


CANCELLED = ("0.bias", "3.bias")  # batch normalisation takes the mean away again


def changed(run, **changes):
    fields = {name: getattr(run, name) for name in run.__dataclass_fields__}
    return Training(**fields | changes)


def models(run):
    row = method(task(run))
    return list(
        rounds(row.x, row.sketch, here(row.local), row.merge, seed=row.seed, n_rounds=row.n_rounds)
    )


def torch_sgd(run):
    """The same network trained by torch alone, on worker 0's batches."""
    t = task(run)
    module = runnable(t.architecture, t.start()).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=run.step_size, momentum=run.momentum)
    for step in range(run.total_steps):
        inputs, targets = t.batches.batch(0, step)
        optimizer.zero_grad()
        cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    return dict(module.named_parameters())


@pytest.mark.parametrize("name", ["local_sgd", "synchronous_sgd", "ist"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_worker_is_torch_sgd_to_the_bit(name, momentum):
    run = changed(SMALL, method=name, workers=1, momentum=momentum)
    last = models(run)[-1].x.params
    for parameter, expected in torch_sgd(run).items():
        assert torch.equal(last[parameter], expected), parameter


def test_diloco_with_outer_step_one_and_no_momentum_is_local_sgd():
    local = models(changed(SMALL, method="local_sgd"))[-1].x.params
    outer = changed(SMALL, method="diloco", outer_step_size=1.0, outer_momentum=0.0)
    for name, p in models(outer)[-1].x.params.items():
        torch.testing.assert_close(p, local[name], rtol=1e-5, atol=1e-6)


def test_diloco_steps_by_nesterov_momentum_on_the_change():
    """Written out: m <- 0.9 m + g, x <- x - 0.7 (g + 0.9 m), with g = x - mean_i z_i."""
    run = changed(SMALL, method="diloco")
    x = task(run).start().params
    momentum = {name: torch.zeros_like(p) for name, p in x.items()}
    for done in models(run):
        for name in x:
            g = x[name] - torch.stack([z.params[name] for z in done.trained]).mean(0)
            momentum[name] = 0.9 * momentum[name] + g
            expected = x[name] - 0.7 * (g + 0.9 * momentum[name])
            torch.testing.assert_close(done.x.params[name], expected, rtol=1e-4, atol=1e-5)
        x = done.x.params


def test_every_locally_trained_step_reaches_the_merged_model():
    """The released GIST never merges its output bias; the released ResIST reverts blocks."""
    for name in ("ist", "local_sgd"):
        run = changed(SMALL, method=name)
        x = task(run).start()
        for done in models(run):
            for i, z in enumerate(done.trained):
                for parameter, value in z.params.items():
                    block = done.partition.block(parameter, done.x.params[parameter], i)
                    given = done.submodels[i].params[parameter]  # where the last round ended
                    assert torch.equal(given, x.params[parameter][block])
                    of_all = [other.params[parameter] for other in done.trained]
                    shared = not any(done.partition.layout.dims[parameter]) or name == "local_sgd"
                    expected = torch.stack(of_all).mean(0) if shared else value
                    torch.testing.assert_close(
                        done.x.params[parameter][block], expected, rtol=1e-5, atol=1e-6
                    )
                    if parameter not in CANCELLED:
                        assert not torch.equal(value, given)
            x = done.x


def test_every_parameter_is_trained_by_someone_in_enough_rounds():
    """In the released three-layer IST some rows are never trained."""
    run = changed(SMALL, rounds=25, local_steps=1)
    trained = {name: torch.zeros(p.shape) for name, p in task(run).start().params.items()}
    for done in models(run):
        for name, count in trained.items():
            for i in range(run.workers):
                count[done.partition.block(name, count, i)] += 1
    assert min(count.min() for count in trained.values()) >= 1
    first, last = task(run).start().params, models(run)[-1].x.params
    seen = (task(run).data.train_inputs != 0).float().mean(0) > 0.1  # pixels that are rarely blank
    assert (first["0.weight"] != last["0.weight"])[:, seen].all()
    assert all((first[n] != last[n]).all() for n in first if n not in ("0.weight", *CANCELLED))


def test_a_partial_last_round_is_merged_and_not_dropped():
    """The released IST learns nothing when an epoch is shorter than a round."""
    whole, partial = SMALL, changed(SMALL, steps=10)  # 4 rounds of 3, 3, 3 and 1 steps
    runs = models(partial)
    assert [[z.n_steps for z in done.trained] for done in runs] == [[n] * 3 for n in (3, 3, 3, 1)]
    assert not torch.equal(runs[-1].x.params["0.weight"], runs[-2].x.params["0.weight"])
    assert torch.equal(runs[2].x.params["0.weight"], models(whole)[2].x.params["0.weight"])
    shorter = models(changed(SMALL, steps=2))  # less than one round
    assert len(shorter) == 1
    assert not torch.equal(shorter[0].x.params["0.weight"], task(SMALL).start().params["0.weight"])


def test_momentum_is_carried_from_round_to_round():
    """The released ResIST and GIST restart it every round."""
    t = task(changed(SMALL, momentum=0.9))
    row = method(t)
    first, second = models(t.run)[:2]
    assert torch.equal(
        second.submodels[0].moments[MOMENTUM]["0.bias"],
        first.x.moments[MOMENTUM]["0.bias"][second.partition.hands["hidden.0"][0]],
    )
    assert first.x.moments[MOMENTUM]["0.bias"].abs().sum() > 0
    assert row.x.moments[MOMENTUM]["0.bias"].abs().sum() == 0


def test_rounds_resume_to_the_bit():
    t = task(changed(SMALL, momentum=0.5))
    row = method(t)

    def run(x, start, end):
        work = here(row.local)
        steps = rounds(x, row.sketch, work, row.merge, seed=row.seed, n_rounds=end, start=start)
        return list(steps)[-1].x

    whole, resumed = run(row.x, 0, 4), run(run(row.x, 0, 2), 2, 4)
    for name, p in whole.params.items():
        assert torch.equal(p, resumed.params[name])


def test_payload_is_counted_by_hand():
    """4 workers, 64-256-10: a worker's 64 neurons carry 64 (64 + 1 + 2 + 10) + 10 entries."""
    t = task(Training(rounds=2))
    for progress in train(t, method(t)):
        assert progress.row["bytes_down"] == [4 * (64 * (64 + 1 + 2 + 10) + 10)] * 4
        assert progress.row["bytes_up"] == progress.row["bytes_down"]
    whole = task(Training(method="synchronous_sgd", rounds=2))
    entries = 256 * (64 + 1 + 2 + 10) + 10
    for progress in train(whole, method(whole)):
        assert progress.row["bytes_up"] == [10 * 4 * entries] * 4


@pytest.mark.parametrize("name", ANYWHERE)
def test_all_methods_see_the_same_number_of_samples(name):
    t = task(changed(SMALL, method=name))
    rows = [progress.row for progress in train(t, method(t))]
    assert [row["steps"] for row in rows] == [3, 6, 9, 12]
    assert rows[-1]["samples"] == 12 * 16 * 3


def test_ist_comes_within_two_points_of_synchronous_sgd_at_equal_samples():
    reached = {}
    for name in ("ist", "synchronous_sgd"):
        run = Training(method=name)
        _, reached[name] = training.tested(task(run), merged(task(run), models(run)[-1].x))
    assert reached["ist"] > reached["synchronous_sgd"] - 0.02
    assert reached["ist"] > 0.95


def test_the_saved_model_loads_into_the_users_plain_module(tmp_path):
    from safetensors.torch import load_file, save_file
    from torch import nn

    t = task(changed(SMALL, rounds=15, local_steps=10))
    last = models(t.run)[-1].x
    save_file(merged(t, last).state_dict(), tmp_path / "model.safetensors")
    plain = nn.Sequential(
        nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(),
        nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 10),
    )  # fmt: skip
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    data = t.data
    assert accuracy(plain, data.test_inputs, data.test_targets) > 0.7
    assert accuracy(plain, data.test_inputs, data.test_targets) == accuracy(
        merged(t, last), data.test_inputs, data.test_targets
    )


def test_a_run_survives_its_way_to_another_process():
    run = changed(SMALL, method="diloco", momentum=0.3, steps=7)
    assert Training.from_json(run.to_json()) == run


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"step_size": -0.1}, r"step_size is a positive number, not -0\.1"),
        ({"step_size": float("nan")}, "step_size is a positive number, not nan"),
        ({"rounds": 0}, "rounds is a whole number from 1 on, not 0"),
        ({"steps": 0}, "steps is a whole number from 1 on"),
        ({"momentum": 1.0}, r"momentum is in \[0, 1\), not 1\.0"),
    ],
)
def test_mistakes_are_refused_where_they_are_made(mistake, message):
    with pytest.raises(ValueError, match=message):
        changed(SMALL, **mistake)


def test_an_unknown_method_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no method 'dist'\. Known are: ist, lazy_ist"):
        method(task(changed(SMALL, method="dist")))


@pytest.mark.parametrize("merge", [Outer(), StepOnGradients(0.5, momentum=0.9)])
def test_an_optimizer_in_the_merge_moves_only_what_somebody_held(merge):
    """Momentum of an earlier round must not move blocks that nobody holds in this one."""
    network = MLP(4, (6, 6), 2)
    x = initial_state(network, seed=0)
    sketch = NetSketch(network.layout, Perm(2))
    for k in range(3):
        partition = sketch.sample(0, k)
        trained = [partition.select(x, i) for i in range(2)]
        for z in trained:
            for p in z.params.values():
                p.add_(1)
        stepped = merge(x, partition, trained)
        held = partition.held(x.params)["3.weight"]
        assert 0 < held.sum() < held.numel()
        before, after = x.params["3.weight"], stepped.params["3.weight"]
        assert torch.equal(after[~held], before[~held])
        assert (after[held] != before[held]).all()
        x = stepped


def test_momentum_without_its_moment_is_refused():
    """Silently restarting it every round is what the released ResIST and GIST do."""
    t = task(SMALL)
    local = LocalSteps(t.architecture, t.batches, SGD(0.1, momentum=0.9), 2)
    w = method(t).sketch.sample(0, 0).select(t.start(), 0)
    with pytest.raises(ValueError, match=r"initial_state\(..., moments=\['momentum_buffer'\]\)"):
        local(0, 0, w)


def test_noise_in_the_network_is_keyed_by_worker_and_round():
    """Dropout draws the same on every machine, and leaves the caller's generator alone."""

    class Noisy(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.up, self.down = torch.nn.Linear(64, width), torch.nn.Linear(width, 10)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x):
            return self.down(self.drop(self.up(x)))

    class Family:
        layout = MLP(64, (12,), 10, norm=False).layout

        def __init__(self):
            dims = dict(
                zip(
                    ("up.weight", "up.bias", "down.weight", "down.bias"),
                    self.layout.dims.values(),
                    strict=True,
                )
            )
            self.layout = Layout(self.layout.sizes, dims)

        def build(self, units):
            return Noisy(len(units["hidden.0"]))

    family, t = Family(), task(SMALL)
    local = LocalSteps(family, t.batches, SGD(0.1), 3)
    w = NetSketch(family.layout, Perm(3)).sample(0, 0).select(initial_state(family, seed=0), 0)
    torch.manual_seed(1)
    once = local(0, 0, w)
    torch.manual_seed(2)
    again, other = local(0, 0, w), local(0, 1, w)
    assert torch.equal(once.params["up.weight"], again.params["up.weight"])
    assert not torch.equal(once.params["up.weight"], other.params["up.weight"])


def test_a_local_work_without_steps_is_refused():
    t = task(SMALL)
    with pytest.raises(ValueError, match="at least one local step, not 0"):
        LocalSteps(t.architecture, t.batches, SGD(0.1), 0)
    two = LocalSteps(t.architecture, t.batches, SGD(0.1), 2, total_steps=3)
    with pytest.raises(ValueError, match=r"Round 2 has no local step left .* Run 2 rounds"):
        two.steps(2)


def test_synchronous_sgd_steps_on_the_gradient_of_the_union_of_the_batches():
    """Without batch normalisation the mean of the workers' gradients is that of all their rows."""
    t = task(SMALL)
    network = MLP(64, (9,), 10, norm=False)
    x = initial_state(network, seed=3)
    sketch = NetSketch(network.layout, Full(3))
    work, merge = here(Gradients(network, t.batches)), StepOnGradients(0.5)
    [done] = rounds(x, sketch, work, merge, seed=0, n_rounds=1)
    module = runnable(network, x)
    both = [t.batches.batch(i, 0) for i in range(3)]
    inputs, targets = (torch.cat(parts) for parts in zip(*both, strict=True))
    cross_entropy(module(inputs), targets).backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(done.x.params[name], p.detach() - 0.5 * p.grad)


def test_a_step_on_gradients_leaves_alone_what_nobody_held():
    network = MLP(4, (6, 6), 2)
    x = initial_state(network, seed=0)
    partition = NetSketch(network.layout, Perm(2)).sample(0, 0)
    gradients = [partition.select(x, i) for i in range(2)]  # any tensors of the right shapes
    stepped = StepOnGradients(0.5)(x, partition, gradients).params["3.weight"]
    held = torch.zeros(6, 6, dtype=torch.bool)
    for i in range(2):
        held[partition.block("3.weight", stepped, i)] = True
    assert torch.equal(stepped[~held], x.params["3.weight"][~held])
    torch.testing.assert_close(stepped[held], 0.5 * x.params["3.weight"][held])
