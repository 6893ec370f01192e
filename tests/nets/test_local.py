"""Local steps: torch's own optimizers, one worker or many, with state that belongs to units."""

import time

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subnetwork.algorithm import rounds
from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.nets import (
    MLP,
    SGD,
    Adam,
    AdamW,
    Gradients,
    Layout,
    LocalSteps,
    ModelState,
    Modules,
    NetSketch,
    Supervised,
    WarmupCosine,
    decompose,
    holders,
    initial_state,
)
from subnetwork.nets.architecture import runnable
from subnetwork.nets.counters import COUNTER, no_moments
from subnetwork.nets.optimizers import FIRST, SECOND
from subnetwork.nets.state import Submodel
from subnetwork.runtime import here
from subnetwork.runtime.wire import pack

NETWORK = MLP(5, (8, 6), 3)
PLAIN = MLP(5, (8, 6), 3, norm=False)

OPTIMIZERS = [
    (SGD(0.1), lambda ps: torch.optim.SGD(ps, 0.1)),
    (SGD(0.1, momentum=0.9), lambda ps: torch.optim.SGD(ps, 0.1, 0.9)),
    (
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
        lambda ps: torch.optim.SGD(ps, 0.1, 0.9, weight_decay=0.02, nesterov=True),
    ),
    (
        Adam(0.02, (0.8, 0.95), 1e-6, weight_decay=0.1),
        lambda ps: torch.optim.Adam(ps, 0.02, (0.8, 0.95), 1e-6, weight_decay=0.1),
    ),
    (AdamW(0.02), lambda ps: torch.optim.AdamW(ps, 0.02)),
]


class Rows:
    """Batches of random rows, named by (worker, step)."""

    seed = 7

    def __init__(self, dtype=torch.float32):
        self.dtype = dtype

    def batch(self, worker, step):
        generator = torch.Generator().manual_seed(1000 * worker + step)
        inputs = torch.randn(12, 5, generator=generator).to(self.dtype)
        return inputs, torch.randint(3, (12,), generator=generator)


def run(local, deal, n_rounds, *, merge=holders, x=None):
    x = x or initial_state(local.architecture, seed=0, moments=local.moments)
    sketch = NetSketch(local.architecture.layout, deal)
    return list(rounds(x, sketch, here(local), merge, seed=3, n_rounds=n_rounds))


@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    OPTIMIZERS,
    ids=lambda value: str(value) if isinstance(value, (SGD, Adam)) else "",
)
@pytest.mark.parametrize("extras", [False, True], ids=["", "schedule and clipping"])
def test_one_worker_that_holds_everything_is_torchs_optimizer_to_the_bit(optimizer, torchs, extras):
    schedule, clip = (WarmupCosine(12, 3, 0.1), 0.3) if extras else (None, None)
    local = LocalSteps(NETWORK, Rows(), optimizer, 4, schedule=schedule, clip=clip)
    last = run(local, Full(1), 3)[-1].x
    module = runnable(NETWORK, initial_state(NETWORK, seed=0)).train()
    torchs = torchs(module.parameters())
    if extras:
        scheduler = torch.optim.lr_scheduler.LambdaLR(torchs, schedule)
    for step in range(12):
        torchs.zero_grad()
        inputs, targets = Rows().batch(0, step)
        cross_entropy(module(inputs), targets).backward()
        if extras:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        torchs.step()
        if extras:
            scheduler.step()
    for name, p in module.named_parameters():
        assert torch.equal(last.params[name], p), name
        for moment in local.moments:
            own, theirs = last.moments[moment][name], torchs.state[p][moment]
            assert torch.equal(own.expand_as(p), theirs.expand_as(p)), (moment, name)


class SlowAdam:
    """Adam written entry by entry: every entry counts the steps that were taken on it."""

    def __init__(self, optimizer, params):
        self.optimizer, self.factor = optimizer, 1.0
        self.params = {n: p.clone() for n, p in params.items()}
        self.first = {n: torch.zeros_like(p) for n, p in params.items()}
        self.second = {n: torch.zeros_like(p) for n, p in params.items()}
        self.count = {n: torch.zeros_like(p).double() for n, p in params.items()}

    def step(self, name, block, grad):
        o, (b1, b2) = self.optimizer, self.optimizer.betas
        step_size = o.step_size * self.factor
        p, t = self.params[name][block], self.count[name][block] + 1
        if o.decoupled:
            p = p * (1 - step_size * o.weight_decay)
        else:
            grad = grad + o.weight_decay * p
        first = b1 * self.first[name][block] + (1 - b1) * grad
        second = b2 * self.second[name][block] + (1 - b2) * grad**2
        denominator = (second / (1 - b2**t)).sqrt() + o.eps
        self.params[name][block] = p - step_size * first / (1 - b1**t) / denominator
        self.first[name][block], self.second[name][block] = first, second
        self.count[name][block] = t

    def step_on(self, blocks, batch):
        """One step of the subnetwork of PLAIN whose entries are in these blocks."""
        w = {n: self.params[n][b].clone().requires_grad_() for n, b in blocks.items()}
        h, targets = batch
        for layer in ("0", "2"):
            h = torch.relu(h @ w[f"{layer}.weight"].T + w[f"{layer}.bias"])
        cross_entropy(h @ w["4.weight"].T + w["4.bias"], targets).backward()
        for name, part in w.items():
            self.step(name, blocks[name], part.grad)

    def of(self, name):
        return [t[name].clone() for t in (self.params, self.first, self.second, self.count)]

    def put(self, name, values):
        for t, value in zip(
            (self.params, self.first, self.second, self.count), values, strict=True
        ):
            t[name] = value.clone()


@pytest.mark.parametrize("optimizer", [Adam(0.02, weight_decay=0.1), AdamW(0.02)], ids=str)
@pytest.mark.parametrize("counting", ["per entry", "one number"])
def test_adam_corrects_every_entry_by_its_own_number_of_steps(optimizer, counting):
    """Perm on two workers: a block between two axes is first touched late, or never.

    The slow definition counts per entry. One number for all, the largest, is not the same.
    """
    schedule = WarmupCosine(15, 4, 0.2)
    local = LocalSteps(PLAIN, Rows(torch.float64), optimizer, 3, schedule=schedule)
    x = initial_state(PLAIN, seed=0, moments=local.moments)
    x = ModelState({n: p.double() for n, p in x.params.items()}, _double(x.moments))
    slow = SlowAdam(optimizer, x.params)
    done = run(local, Perm(2), 5, x=x)
    for one in done:
        begun, ended = slow.of("4.bias"), []  # held by both: merged by the mean
        for i in range(2):
            slow.put("4.bias", begun)
            blocks = {n: one.partition.block(n, p, i) for n, p in slow.params.items()}
            for step in range(3 * one.k, 3 * one.k + 3):
                slow.factor = schedule(step)
                slow.step_on(blocks, local.batches.batch(i, step))
                if counting == "one number":
                    most = max(float(count.max()) for count in slow.count.values())
                    slow.count = {n: count.fill_(most) for n, count in slow.count.items()}
            ended.append(slow.of("4.bias"))
        slow.put("4.bias", [torch.stack(each).mean(0) for each in zip(*ended, strict=True)])
    last = done[-1].x
    gap = max(float((last.params[n] - p).abs().max()) for n, p in slow.params.items())
    if counting == "one number":
        assert gap > 1e-3
        return
    assert gap < 1e-12
    counts = last.moments[COUNTER]
    assert len(counts["2.weight"].unique()) > 2  # some entries are touched late, some never
    for name, count in slow.count.items():
        assert torch.equal(counts[name].expand_as(count), count), name
        torch.testing.assert_close(last.moments[FIRST][name], slow.first[name], rtol=1e-12, atol=0)
        torch.testing.assert_close(last.moments[SECOND][name], slow.second[name])


def _double(moments):
    return {m: {n: t.double() for n, t in tensors.items()} for m, tensors in moments.items()}


def test_unevenly_counted_units_are_stepped_as_torch_steps_each_count_to_the_bit():
    heads = Layout({"heads": 3}, {"w": ("heads", None), "v": (None, "heads")})

    class Module(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.w = nn.Parameter(torch.empty(n, 5))
            self.v = nn.Parameter(torch.empty(2, n))

        def forward(self, x):
            return torch.tanh(x @ self.w.T) @ self.v.T

    class Family:
        layout = heads

        def build(self, units):
            return Module(len(units["heads"]))

    class Feed(Rows):
        def batch(self, worker, step):
            inputs, targets = super().batch(worker, step)
            return inputs, torch.stack([inputs[:, 0] * targets, inputs[:, 1]], 1)

    generator = torch.Generator().manual_seed(2)
    params = {"w": torch.randn(3, 5, generator=generator), "v": torch.randn(2, 3)}
    counts = torch.tensor([0.0, 4.0, 11.0])
    moments = {
        FIRST: {n: torch.randn_like(p) for n, p in params.items()},
        SECOND: {n: torch.rand_like(p) for n, p in params.items()},
        COUNTER: {"w": counts[:, None].clone(), "v": counts[None].clone()},
    }
    local = LocalSteps(Family(), Feed(), AdamW(0.03), 1, loss=Supervised(mse_loss))
    w = NetSketch(heads, Full(1)).sample(0, 0).select(ModelState(params, moments), 0)
    z = local(0, 0, w)
    module = Module(3)
    module.w.data, module.v.data = params["w"].clone(), params["v"].clone()
    mse_loss(module(Feed().batch(0, 0)[0]), Feed().batch(0, 0)[1]).backward()
    for unit, count in enumerate(counts):
        for name, grad in (("w", module.w.grad), ("v", module.v.grad)):
            p = nn.Parameter(params[name].clone())
            adam = torch.optim.AdamW([p], 0.03)
            own = {m: moments[m][name].clone() for m in (FIRST, SECOND)}
            adam.state[p] = {"step": torch.tensor(float(count)), **own}
            p.grad = grad.clone()
            adam.step()
            here_ = (unit,) if name == "w" else (slice(None), unit)
            assert torch.equal(z.params[name][here_], p[here_])
            assert torch.equal(z.moments[SECOND][name][here_], own[SECOND][here_])
    assert z.moments[COUNTER]["v"].tolist() == [[1, 5, 12]]


def test_state_is_carried_or_reset_as_asked():
    """The released ResIST and GIST restart it every round: here that is an option, never a slip."""
    sliced = LocalSteps(NETWORK, Rows(), Adam(0.01), 2)
    reset = LocalSteps(NETWORK, Rows(), Adam(0.01), 2, state="reset")
    assert reset.moments == ()
    first, second = run(sliced, Perm(2), 2)
    hand = second.partition.hands["hidden.0"][0]
    for moment in (FIRST, SECOND, COUNTER):
        own = first.x.moments[moment]["0.bias"]
        assert torch.equal(second.submodels[0].moments[moment]["0.bias"], own[hand])
        assert own.abs().sum() > 0
    assert (first.x.moments[COUNTER]["0.bias"] == 2).all()
    anew = run(reset, Perm(2), 2)
    assert anew[1].x.moments == {}
    assert torch.equal(anew[0].x.params["0.weight"], first.x.params["0.weight"])
    assert not torch.equal(anew[1].x.params["0.weight"], second.x.params["0.weight"])
    with pytest.raises(ValueError, match=r"moments=\['exp_avg', 'exp_avg_sq', 'step'\]\)"):
        run(sliced, Perm(2), 1, x=initial_state(NETWORK, seed=0))
    with pytest.raises(ValueError, match=r"state='reset' needs the moments \[\], but"):
        run(reset, Perm(2), 1, x=initial_state(NETWORK, seed=0, moments=sliced.moments))


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=0.5), AdamW(0.1, weight_decay=0.5)])
def test_weight_decay_and_moments_move_only_what_is_held(optimizer):
    local = LocalSteps(PLAIN, Rows(), optimizer, 2)
    x = initial_state(PLAIN, seed=0, moments=local.moments)
    [done] = run(local, Perm(2), 1, x=x)
    held = done.partition.held(x.params)["2.weight"]
    assert 0 < held.sum() < held.numel()
    assert torch.equal(done.x.params["2.weight"][~held], x.params["2.weight"][~held])
    assert (done.x.params["2.weight"] != x.params["2.weight"])[held].all()
    for moment in local.moments:
        assert (done.x.moments[moment]["2.weight"][~held] == 0).all()


def test_rounds_of_adam_resume_to_the_bit():
    local = LocalSteps(NETWORK, Rows(), AdamW(0.02), 2, schedule=WarmupCosine(8, 2))
    x = initial_state(NETWORK, seed=0, moments=local.moments)
    sketch = NetSketch(NETWORK.layout, Perm(2))

    def to(x, start, end):
        anew = LocalSteps(NETWORK, Rows(), AdamW(0.02), 2, schedule=WarmupCosine(8, 2))
        done = rounds(x, sketch, here(anew), holders, seed=3, n_rounds=end, start=start)
        return list(done)[-1].x

    whole, resumed = to(x, 0, 4), to(to(x, 0, 2), 2, 4)
    for name in x.params:
        assert torch.equal(whole.params[name], resumed.params[name])
        assert all(torch.equal(whole.moments[m][name], resumed.moments[m][name]) for m in x.moments)


@pytest.mark.parametrize("deal", [Full(3), Perm(3), RandQ(3, q=4), Bernoulli(3, p=0.7)], ids=str)
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam()], ids=str)
def test_modules_are_built_once_per_shape_and_leave_nothing_behind(deal, optimizer):
    """Equal to a module that is built anew each time: nothing leaks from round to round."""
    kept = LocalSteps(NETWORK, Rows(), optimizer, 2)
    x = initial_state(NETWORK, seed=0, moments=kept.moments)
    sketch = NetSketch(NETWORK.layout, deal)
    shapes = set()
    for k in range(4):
        partition = sketch.sample(0, k)
        for i in range(3):
            w = partition.select(x, i)
            shapes.add(tuple(p.shape for p in w.params.values()))
            fresh = LocalSteps(NETWORK, Rows(), optimizer, 2)(k, i, w)
            again = kept(k, i, w)
            assert torch.equal(pack(again), pack(fresh))
            assert again.loss == fresh.loss
    assert kept.modules.n_built == len(shapes)
    for standing in kept.modules._free.values():
        [one] = standing
        assert all(p.numel() == 0 and p.grad is None for p in one.params.values())
        running = dict(one.module.named_buffers())["1.running_mean"]
        assert (running == 0).all()  # batch statistics of an earlier round are gone


def test_the_submodel_is_left_alone_unless_it_was_offered():
    x = initial_state(NETWORK, seed=0)
    partition = NetSketch(NETWORK.layout, Perm(2)).sample(0, 0)
    w, offered = partition.select(x, 0), partition.select(x, 0)
    before = pack(w).clone()
    local = LocalSteps(NETWORK, Rows(), SGD(0.1), 3)
    z = local(0, 0, w)
    assert torch.equal(pack(w), before)
    taken = LocalSteps(NETWORK, Rows(), SGD(0.1), 3, in_place=True)(0, 0, offered)
    assert pack(taken).data_ptr() == pack(offered).data_ptr()
    assert torch.equal(pack(taken), pack(z))
    assert not any(p.requires_grad for p in z.tensors())
    later = local(1, 0, partition.select(x, 0))
    assert pack(later).data_ptr() != pack(z).data_ptr()


def test_equal_shapes_are_one_compiled_graph():
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    modules = Modules(lambda module: torch.compile(module, backend=counting))
    plain = LocalSteps(PLAIN, Rows(), SGD(0.1), 2)
    compiled = LocalSteps(PLAIN, Rows(), SGD(0.1), 2, modules=modules)
    expected, got = run(plain, Perm(2), 3)[-1].x, run(compiled, Perm(2), 3)[-1].x
    assert len(graphs) == 1
    assert all(torch.equal(expected.params[n], p) for n, p in got.params.items())


def test_a_slow_worker_stops_after_at_least_one_step_and_says_how_far_it_came():
    class Slow(Rows):
        def batch(self, worker, step):
            time.sleep(0.02)
            return super().batch(worker, step)

    x = initial_state(NETWORK, seed=0)
    w = NetSketch(NETWORK.layout, Perm(2)).sample(0, 0).select(x, 0)
    assert w.n_steps == 0
    assert LocalSteps(NETWORK, Slow(), SGD(0.1), 50, seconds=0.0)(0, 0, w).n_steps == 1
    some = LocalSteps(NETWORK, Slow(), SGD(0.1), 50, seconds=0.1)(0, 0, w)
    assert 1 <= some.n_steps <= 6
    full = LocalSteps(NETWORK, Slow(), SGD(0.1), 3, seconds=60.0)(0, 0, w)
    assert full.n_steps == 3
    same = LocalSteps(NETWORK, Rows(), SGD(0.1), some.n_steps)(0, 0, w)
    assert torch.equal(pack(same), pack(some))  # a round cut short is a shorter round


def test_the_loss_is_any_function_of_module_and_batch():
    class Dicts(Rows):
        def batch(self, worker, step):
            inputs, targets = super().batch(worker, step)
            return {"x": inputs, "labels": targets, "weight": torch.ones(3)}

    def loss(module, batch):
        return cross_entropy(module(batch["x"]), batch["labels"], batch["weight"])

    w = NetSketch(NETWORK.layout, Perm(2)).sample(0, 0).select(initial_state(NETWORK, seed=0), 1)
    plain = LocalSteps(NETWORK, Rows(), SGD(0.1), 2)(0, 1, w)
    general = LocalSteps(NETWORK, Dicts(), SGD(0.1), 2, loss=loss)(0, 1, w)
    assert torch.equal(pack(plain), pack(general))
    one = Gradients(NETWORK, Dicts(), loss)(0, 1, w)
    assert torch.equal(pack(one), pack(Gradients(NETWORK, Rows())(0, 1, w)))
    assert (one.n_steps, plain.n_steps) == (1, 2)


def test_a_parameter_without_gradient_is_not_stepped_and_counts_no_step():
    class Unused(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    class Family:
        layout = Layout(
            {"a": 2}, {n: (None,) * d for n, d in (("0.weight", 2), ("0.bias", 1))}
            | {"1.weight": ("a", None), "1.bias": ("a",)},
        )  # fmt: skip

        def build(self, units):
            return Unused(nn.Linear(5, 3), nn.Linear(5, len(units["a"])))

    local = LocalSteps(Family(), Rows(), AdamW(0.1), 2)
    x = initial_state(Family(), seed=0, moments=local.moments)
    [done] = run(local, Perm(2), 1, x=x)
    assert torch.equal(done.x.params["1.weight"], x.params["1.weight"])
    assert (done.x.moments[COUNTER]["1.weight"] == 0).all()
    assert (done.x.moments[COUNTER]["0.weight"] == 2).all()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: LocalSteps(NETWORK, Rows(), 0.1, 2), r"an optimizer, not the step size 0\.1"),
        (lambda: LocalSteps(NETWORK, Rows(), SGD(0.1), 2, state="keep"), "not 'keep'. Use state="),
        (lambda: LocalSteps(NETWORK, Rows(), SGD(0.1), 2, clip=0.0), "positive number, not 0"),
        (lambda: SGD(0.1, nesterov=True), "Nesterov's step needs momentum"),
        (lambda: SGD(-1), "positive number, not -1"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas is in \[0, 1\), not 1\.0"),
        (lambda: AdamW(weight_decay=-1), "weight_decay is a number from 0 on, not -1"),
        (lambda: WarmupCosine(10, 10), "warmup=10 steps does not fit into total=10. Give it .* 9"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_where_they_are_made(mistake, message):
    with pytest.raises(ValueError, match=message):
        mistake()


def test_a_submodel_is_trained_in_whatever_memory_it_comes():
    x = initial_state(NETWORK, seed=0)
    w = NetSketch(NETWORK.layout, Perm(2)).sample(0, 0).select(x, 0)
    scattered = Submodel({n: p.clone() for n, p in w.params.items()})
    local = LocalSteps(NETWORK, Rows(), SGD(0.1), 2)
    assert torch.equal(pack(local(0, 0, scattered)), pack(local(0, 0, w)))


def test_counts_in_sixteen_bits_are_refused():
    local = LocalSteps(NETWORK, Rows(), Adam(), 1)
    x = initial_state(NETWORK, seed=0)
    half = ModelState({n: p.bfloat16() for n, p in x.params.items()})
    moments = no_moments(NETWORK.layout, half.params, local.moments)
    w = NetSketch(NETWORK.layout, Perm(2)).sample(0, 0).select(ModelState(half.params, moments), 0)
    with pytest.raises(ValueError, match="it would stop at 256"):
        local(0, 0, w)


def real(tree):
    """The tensors in it that have memory."""
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and not x.is_meta]


class Largest(TorchDispatchMode):
    """The most entries that any operation makes room for while it is on; views take none."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in real((args, kwargs))}
        made = [x.numel() for x in real(out) if x.untyped_storage().data_ptr() not in given]
        self.entries = max(self.entries, *made, 0)
        return out


@pytest.mark.parametrize("traced", [False, True], ids=["MLP", "decompose"])
def test_what_a_worker_trains_with_is_its_share_of_memory(traced):
    """The released ResIST and AsyncDrop allocate the whole model on every worker."""
    architecture = MLP(5, (64, 64), 3)
    if traced:
        model = architecture.build(architecture.layout.all_units)
        architecture = decompose(model, torch.zeros(2, 5), verify=False)
    x = initial_state(architecture, seed=0)
    w = NetSketch(architecture.layout, Perm(4)).sample(0, 0).select(x, 1)
    assert max(p.numel() for p in x.params.values()) == 64 * 64
    assert max(p.numel() for p in w.params.values()) == 16 * 16
    with Largest() as seen:
        LocalSteps(architecture, Rows(), SGD(0.1), 3)(0, 1, w)
    assert 0 < seen.entries <= sum(p.numel() for p in w.params.values())
