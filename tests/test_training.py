"Options of `fit` that pass through Lightning."
import signal
import pytest, torch
from torch import nn
from hepebm.core.arrays import Arrays
from hepebm.core.training import Guard, Task, adam, fit, history, load_model, read_log, save_model, updates

@pytest.fixture(autouse=True)
def quiet(monkeypatch): monkeypatch.setenv('IN_TEST', '1')

def data(n=130, dtype=torch.float32):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Arrays(x=x, y=x.sum(1).sin())
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))
def mse(model, batch): return dict(mse=(model(batch['x'])[:,0]-batch['y']).square().mean())
def same(a, b): return all(map(torch.equal, a.parameters(), b.parameters()))

class Cut:
    "An objective that fails in one of its calls"
    def __init__(self, at, error): self.at, self.error, self.calls = at, error, 0
    def __call__(self, model, batch):
        self.calls += 1
        if self.calls==self.at: raise self.error
        return mse(model, batch)

@pytest.mark.parametrize('kw', [dict(accumulate_grad_batches=3), dict(gradient_clip_val=.1), dict(precision='64-true'), dict(ema=.9), dict(precision='bf16-mixed')], ids=str)
def test_resume_with_options(tmp_path, kw):
    "Cut in the second epoch (14 batches each), then resumed"
    whole, cut = Task(net(), Cut(0, None)), Task(net(), Cut(20, OSError))
    fit(whole, data(), epochs=3, size=10, **kw)
    with pytest.raises(OSError): fit(cut, data(), epochs=3, size=10, out=tmp_path, checkpoint_every=1, **kw)
    again = Task(net(), Cut(0, None))
    fit(again, data(), epochs=3, size=10, out=tmp_path, checkpoint_every=1, **kw)
    assert same(again.model, whole.model)

def test_accumulation_is_one_batch():
    "Two batches of 10 make the gradient of one of 20"
    a, b = Task(net(), mse, lambda p: torch.optim.SGD(p, .1)), Task(net(), mse, lambda p: torch.optim.SGD(p, .1))
    fit(a, data(120), epochs=2, size=20); fit(b, data(120), epochs=2, size=10, accumulate_grad_batches=2)
    for p,q in zip(a.model.parameters(), b.model.parameters()): torch.testing.assert_close(p, q)

def test_early_stop_is_final(tmp_path):
    from lightning.pytorch.callbacks import EarlyStopping
    stop = lambda: [EarlyStopping('valid_mse', patience=1, min_delta=10.)]
    task = Task(net(), mse)
    n = len(history(fit(task, data(), data(40), epochs=9, out=tmp_path, callbacks=stop()), 'valid_mse')[0])
    assert n == 2
    again = Task(net(), mse)
    assert len(history(fit(again, data(), data(40), epochs=9, out=tmp_path, callbacks=stop()), 'valid_mse')[0]) == 2
    assert same(again.model, task.model)

def test_more_epochs_go_on(tmp_path):
    whole, task = Task(net(), mse), Task(net(), mse)
    fit(whole, data(), epochs=5)
    fit(task, data(), epochs=2, out=tmp_path)
    log = fit(task, data(), epochs=5, out=tmp_path)
    assert same(task.model, whole.model) and log.epoch.tolist() == [0, 1, 2, 3, 4]

def test_interrupt(tmp_path):
    "^C stays a KeyboardInterrupt, and the handler is Python's own again"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): fit(Task(net(), Cut(5, KeyboardInterrupt)), data(), size=10, out=tmp_path, checkpoint_every=1)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path/'last.ckpt', weights_only=True)['place']['step'] == 4

def test_batches_as_dicts():
    whole, task = Task(net(), mse), Task(net(), mse)
    fit(whole, data()); fit(task, dict(data().items()))
    assert same(task.model, whole.model)

def test_precision_follows():
    task = Task(net(), mse)
    fit(task, data(), epochs=1, precision='64-true')
    assert task.model[0].weight.dtype == torch.float64

@pytest.mark.parametrize('train, error', [(torch.zeros(3), TypeError), (Arrays(x=torch.zeros(0, 2), y=torch.zeros(0)), ValueError)])
def test_bad_data(train, error):
    with pytest.raises(error): fit(Task(net(), mse), train)

def test_bad_objectives():
    with pytest.raises(ValueError, match='depends on a parameter'): fit(Task(net(), lambda m, b: dict(a=b.x.mean())), data())
    with pytest.raises(ValueError, match="'step'"): fit(Task(net(), lambda m, b: dict(step=m(b.x).mean())), data())
    with pytest.raises(ValueError, match='cannot name an array'): fit(Task(net(), lambda m, b: dict(split=m(b.x).mean())), data())
    with pytest.raises(ValueError, match='no parameter'): fit(Task(net().requires_grad_(False), mse), data())
    with pytest.raises(TypeError, match='recorded settings'): fit(Task(net(), mse), data(), data(), out='nowhere', best='valid_loss')

def test_state_must_be_plain(tmp_path):
    "What only pickle could read back is refused when it is written"
    import numpy as np
    class Odd(Cut):
        def get_extra_state(self): return dict(pool=np.zeros(3))
        def set_extra_state(self, s): pass
    with pytest.raises(TypeError, match='pool is a ndarray'): fit(Task(net(), Odd(0, None)), data(), epochs=1, out=tmp_path)

@pytest.mark.parametrize('cut', [2, 4])
def test_guard_resumes(cut, tmp_path):
    "A training that goes back and is stopped before or after goes on to the same weights"
    class Accident(nn.Module):
        "Least squares, and once, at the 25th update, weights that are far off"
        def __init__(self, fired): super().__init__(); self.n, self.fired = 0, fired
        def get_extra_state(self): return self.n
        def set_extra_state(self, n): self.n = n
        def forward(self, model, batch):
            self.n += 1
            if self.n==25 and not self.fired: self.fired.append(model[0].weight.data.fill_(1e30))
            return mse(model, batch)
    def train(out, *epochs):
        fired = []
        for n in epochs:
            model, guard = net(), Guard(every=4)
            log = fit(Task(model, Accident(fired), adam(.01)), data(100), epochs=n, size=10, out=out, guard=guard)
        return model, guard.times, log
    with pytest.warns(UserWarning, match='update 24: the loss is not finite; back to an earlier state'): whole,times,log = train(tmp_path/'a', 6)
    with pytest.warns(UserWarning, match='update 24'): parts,again,_ = train(tmp_path/'b', cut, 6)
    assert same(whole, parts) and times==again==1 and log['_back'][-1]==1
    with pytest.raises(ValueError, match='guard'): fit(Task(net(), Accident([]), adam(.01)), data(100), epochs=7, size=10, out=tmp_path/'a')

def test_guard_and_average():
    "What went wrong does not stay in the moving average; and going back over the end of an epoch leaves its learning rate"
    class Once(torch.autograd.Function):
        "One update whose loss is fine and whose gradient is not"
        @staticmethod
        def forward(ctx, x): return x.clone()
        @staticmethod
        def backward(ctx, g): return g*float('nan')
    fired, rates = [], []
    def objective(model, batch):
        loss = mse(model, batch)['mse']
        rates.append(guard.times)
        if len(rates)==25: fired.append(1); loss = Once.apply(loss)
        return dict(mse=loss)
    model, guard = net(), Guard(every=4)
    with pytest.warns(UserWarning, match='not finite'): fit(Task(model, objective, adam(.01)), data(100), epochs=6, size=10, ema=.9, guard=guard)
    assert guard.times==1 and all(p.isfinite().all() for p in model.parameters())
    model, guard, seen = net(), Guard(every=8), []
    opt = adam(.04, decay=.5)(model.parameters())
    bad = lambda n: lambda m, b: dict(mse=mse(m, b)['mse']*(float('nan') if len(seen)==n and not guard.times else 1))
    task = Task(model, bad(22), lambda ps: opt)
    with pytest.warns(UserWarning, match='not finite'):
        for _ in zip(range(28), updates(task, data(100), 10, guard=guard)): seen.append(opt.param_groups[0]['lr'])
    assert guard.times==1 and seen[21]==.04*.25 and seen[22]==.04*.25*.5

def test_updates_follow_the_model():
    "Batches that are drawn on the CPU come to the model's device"
    from hepebm.data.toys import toys
    model = nn.Linear(2, 1).to('meta')
    terms = next(updates(Task(model, lambda m, b: dict(a=m(b['x']).mean())), toys['moons'], 8))
    assert terms['a'].device.type=='meta'
