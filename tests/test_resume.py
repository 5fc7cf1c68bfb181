"A training that is killed and started again by the same command ends as if nothing had happened."
import os, signal, subprocess, sys
from pathlib import Path
import pytest, torch

root = Path(__file__).resolve().parent.parent
SCRIPT = '''
import os, random, signal, sys
import numpy as np, torch
from torch import nn
from hepebm.core import training
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, adam, cosine, fit, record

out, kill, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]  # kill in this call of the objective, 0 for never
torch.manual_seed(0)
x = torch.randn(330, 3)
train, valid = Arrays(x=x, y=x.sum(1).sin()), Arrays(x=x[:50], y=x[:50].sum(1).sin())

@record
class Net(nn.Sequential):
    def __init__(self, width=16): super().__init__(nn.Linear(3, width), nn.SiLU(), nn.Dropout(.1), nn.BatchNorm1d(width), nn.Linear(width, 1))
model = Net()

class Pooled(nn.Module):
    "Uses every source of randomness there is, a pool, a buffer, a parameter"
    def __init__(self):
        super().__init__()
        self.width, self.pool = nn.Parameter(torch.zeros(())), torch.zeros(0, 3)
        self.register_buffer('seen', torch.zeros((), dtype=torch.long))
        self.generator, self.rng, self.calls = torch.Generator().manual_seed(5), np.random.default_rng(5), 0
    def forward(self, model, batch):
        self.calls += 1
        if self.calls==kill and how=='step': os.kill(os.getpid(), signal.SIGKILL)
        self.seen += len(batch)
        self.pool = torch.cat([self.pool, batch.x])[-100:]
        i = torch.randint(len(self.pool), (8,), generator=self.generator)
        shift = float(self.rng.normal()) + random.gauss(0, 1) + float(np.random.normal()) + torch.randn(()).item()
        e = model(batch.x+.01*shift)[:,0]-batch.y
        return dict(fit=(e/self.width.exp()).square().mean()/2 + self.width, pool=1e-3*model(self.pool[i]).square().mean())
    def get_extra_state(self): return dict(pool=self.pool)
    def set_extra_state(self, s): self.pool = s['pool']

def torn(state, path):
    "A crash in the middle of writing a checkpoint"
    with open(path, 'wb') as f: f.write(b'half a checkpoint')
    os.kill(os.getpid(), signal.SIGKILL)
real = torch.save
def save(state, path):
    if how=='write' and state['place']['step']>=kill: torn(state, path)
    real(state, path)
torch.save = save
objective = Pooled()
fit(Task(model, objective, adam(1e-2, schedule=cosine(60, 5), decay=.9)), train, valid, epochs=4, size=32, out=out, checkpoint_every=4, ema=.9, best='valid_loss',
    log_every_n_steps=3, gradient_clip_val=1., accelerator='cpu', **eval(sys.argv[4] if len(sys.argv)>4 else '{}'))
real(dict(model=model.state_dict(), objective=objective.state_dict(), generator=objective.generator.get_state(), rng=torch.get_rng_state()), out+'/end.pt')
'''

def start(out, kill=0, how='step', kw='{}'):
    env = dict(os.environ, PYTHONPATH=str(root), IN_TEST='1', OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, '-c', SCRIPT, str(out), str(kill), how, kw], env=env, cwd=out.parent, capture_output=True, text=True)
    assert r.returncode == (-signal.SIGKILL if kill else 0), r.stderr[-2000:]

def same(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a) if isinstance(a, dict) else a==b

def end(out): return torch.load(out/'end.pt', weights_only=True), (out/'log.csv').read_text(), sorted((out/'best').iterdir())[1].read_bytes()

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    start(out)
    return end(out)

def agrees(out, whole):
    state, log, best = end(out)
    assert same(state, whole[0])
    assert log == whole[1]
    assert best == whole[2]
    assert not list(out.glob('.*'))

def test_killed_twice(tmp_path, whole):
    "Once in the middle of the first epoch, then while a checkpoint is written: the one under the final name is whole, the half one goes away"
    out = tmp_path/'run'
    start(out, kill=8)
    start(out, kill=15, how='write')
    assert torch.load(out/'last.ckpt', weights_only=True)['place']['step'] == 12
    assert list(out.glob('.last.ckpt.*.tmp'))
    start(out)
    agrees(out, whole)

@pytest.mark.long
def test_finished_run_is_kept(tmp_path, whole):
    "Started again when all is done: nothing is trained, the result is the same"
    out = tmp_path/'run'
    start(out)
    (out/'end.pt').unlink()
    start(out)
    agrees(out, whole)

@pytest.mark.long
@pytest.mark.parametrize('kill', range(1, 53, 7))
def test_killed_anywhere(tmp_path, whole, kill):
    "An epoch has 11 steps and 2 batches of validation"
    out = tmp_path/'run'
    start(out, kill=kill)
    start(out)
    agrees(out, whole)

@pytest.mark.long
def test_stopped_early(tmp_path, whole):
    "Stopped by max_steps in mid-epoch and started again: the same weights (the log has one more row, of the stop)"
    out = tmp_path/'run'
    start(out, kw='dict(max_steps=7)')
    assert torch.load(out/'last.ckpt', weights_only=True)['place']['epoch'] == 0
    start(out)
    assert same(end(out)[0], whole[0])
