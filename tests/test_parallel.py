"Several processes train as one does."
import os, subprocess, sys
from pathlib import Path
import pytest, torch

root = Path(__file__).resolve().parent.parent
SCRIPT = '''
import os, sys, torch
from torch import nn
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, fit
out, devices, kill = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
x = torch.randn(103, 3, dtype=torch.float64)
train = Arrays(x=x, y=x.sum(1).sin())
model = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1)).double()

class Score(nn.Module):
    "Differentiates the model and keeps a pool that differs between processes"
    def __init__(self):
        super().__init__()
        self.scale, self.pool, self.calls, self.generator = nn.Parameter(torch.ones(()).double()), torch.zeros(0, 3), 0, torch.Generator().manual_seed(0)
    def forward(self, model, batch):
        if self.training: self.calls += 1
        if self.calls==kill and os.environ.get('LOCAL_RANK')=='1': os.kill(os.getppid(), 9) or os.kill(os.getpid(), 9)
        x = batch.x.clone().requires_grad_()
        g, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        self.pool = torch.cat([self.pool, batch.x+torch.randn(batch.x.shape, generator=self.generator)])[-9:]
        return dict(fit=(model(batch.x)[:,0]*self.scale-batch.y).square().mean(), grad=.1*g.square().sum(1).mean())
    def get_extra_state(self): return dict(pool=self.pool)
    def set_extra_state(self, s): self.pool = s['pool']
objective = Score()
fit(Task(model, objective, lambda p: torch.optim.SGD(p, lr=.1, momentum=.9)), train, train[:31], epochs=3, size=20, out=out, checkpoint_every=2, log_every_n_steps=2,
    accelerator='cpu', devices=devices, strategy='ddp' if devices>1 else 'auto')
torch.save(dict(model=model.state_dict(), pool=objective.pool, scale=objective.scale.detach()), f'{out}/end{os.environ.get("LOCAL_RANK", 0)}.pt')
'''

def start(out, devices, kill=0):
    (out.parent/'script.py').write_text(SCRIPT)
    env = dict(os.environ, PYTHONPATH=str(root), IN_TEST='1', OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, 'script.py', str(out), str(devices), str(kill)], env=env, cwd=out.parent, capture_output=True, text=True)
    assert (r.returncode != 0) == bool(kill), r.stderr[-3000:]
    return [torch.load(p, weights_only=True) for p in sorted(out.glob('end*.pt'))]

def rows(out): return [[float(v or 'nan') for v in r.split(',')] for r in (out/'log.csv').read_text().split()[1:]]

@pytest.mark.long
def test_two_processes_are_one(tmp_path):
    "Second-order gradients included, and batches that two do not divide; each process has noise of its own, and both resume"
    one, = start(tmp_path/'one', 1)
    two = start(tmp_path/'two', 2)
    for t in two:
        torch.testing.assert_close(t['model'], one['model'], rtol=0, atol=1e-12)
        torch.testing.assert_close(t['scale'], one['scale'], rtol=0, atol=1e-12)
    torch.testing.assert_close(rows(tmp_path/'two'), rows(tmp_path/'one'), rtol=1e-6, atol=1e-7, equal_nan=True)
    assert not torch.equal(two[0]['pool'], two[1]['pool'])
    start(tmp_path/'again', 2, kill=10)
    again = start(tmp_path/'again', 2)
    for a,b in zip(again, two):
        assert torch.equal(a['pool'], b['pool'])
        for k in a['model']: assert torch.equal(a['model'][k], b['model'][k])
    assert (tmp_path/'again/log.csv').read_text() == (tmp_path/'two/log.csv').read_text()

@pytest.mark.long
def test_study_in_two_processes(tmp_path):
    "Chains in two processes, as published: both see the whole of the validation data, one writes"
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    set_ = 'frame=axis warm=0 step=.1 epsilon=.005 fresh=.05 decay=.98 updates=9 deepset_updates=9'.split()
    r = subprocess.run([str(Path(sys.executable).parent/'hepebm'), 'run', 'jet-ebm', '--preset', 'smoke', '--device', 'cpu', '--devices', '2', '--out', str(tmp_path/'run'), '--set', *set_], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-3000:]
    head, *log = (tmp_path/'run/log.csv').read_text().split()
    judged = [row.split(',')[head.split(',').index('valid_js')] for row in log]
    assert any(judged) and all(0 < float(v) < .7 for v in judged if v)
    assert (tmp_path/'run/metrics.json').exists() and (tmp_path/'run/model/model.safetensors').exists()
