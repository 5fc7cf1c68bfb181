"""Jet EBMs: time of a training step, what size buys, and how fast chains forget: `python bench/jet_ebm.py [step] [ladder] [mixing] [--rounds N] [--threads N] [--updates N] [--device cuda] [--quick]`

step: one update, 24 cold Langevin steps of 128 jets of 40 particles, then backward and Adam. The reference is a plain eager loop over a network of the published size (8 layers of 128, 16 heads, 1024, no norm,
dropout off, naive attention with the correct mask, chains kept in a list), in the same run and in turn; CPU time, or with a GPU that of the clock.
ladder: our energies by size, at equal updates and at equal CPU time, one thread, seed 0, judged on the validation split. mixing: MALA against HMC at equal gradients.
"""
import argparse, math, os, platform, random, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
import numpy as np, torch
from torch import nn
from hepebm.core.metrics import auc, fpd, jsd
from hepebm.core.training import Task, adam, updates
from hepebm.data.samples import JETS, sample
from hepebm.ebm import jets as J
from hepebm.ebm.objectives import MLE
from hepebm.ebm.samplers import Pool, hmc
from hepebm.nn.efps import jet_features

class Layer(nn.Module):
    "Attention and two dense layers with residuals, written plainly"
    def __init__(self, d, heads, hidden):
        super().__init__()
        self.q, self.k, self.v, self.o, self.a, self.b, self.heads = *(nn.Linear(d, d) for _ in range(4)), nn.Linear(d, hidden), nn.Linear(hidden, d), heads
    def forward(self, x, mask):
        q,k,v = (f(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        w = (q@k.transpose(-1, -2)/math.sqrt(q.shape[-1])).masked_fill(~mask[:,None,None], -1e9).softmax(-1)
        x = x + self.o((w@v).transpose(1, 2).reshape(x.shape))
        return x + self.b(self.a(x).relu())

class Plain(nn.Module):
    "A network of the published size"
    def __init__(self, d=128, heads=16, depth=8, hidden=1024):
        super().__init__()
        self.embed, self.layers, self.head = nn.Linear(3, d), nn.ModuleList(Layer(d, heads, hidden) for _ in range(depth)), nn.Sequential(nn.Linear(d, 500), nn.SiLU(), nn.Linear(500, 500), nn.SiLU(), nn.Linear(500, 1))
    def forward(self, x, mask):
        h = self.embed(x)
        for layer in self.layers: h = layer(h, mask)
        return self.head((h*mask[...,None]).sum(1))[:,0]

def plain_step(net, x, mask, steps=24):
    "An update as one would write it by hand"
    opt, chains = torch.optim.Adam(net.parameters(), 1e-4, betas=(0., .999)), [(torch.randn_like(x[i])*mask[i,:,None], mask[i]) for i in range(len(x))]
    def step():
        now = [random.choice(chains) for _ in range(len(x))]
        y, m = (torch.stack(v) for v in zip(*now))
        net.eval()
        for p in net.parameters(): p.requires_grad = False
        for _ in range(steps):
            y = (y+.005*torch.randn_like(y)*m[...,None]).requires_grad_()
            g, = torch.autograd.grad(net(y, m).sum(), y)
            y = (y-.1*g.clamp(-1, 1)*m[...,None]).detach()
        for p in net.parameters(): p.requires_grad = True
        net.train()
        e = net(torch.cat([x, y]), torch.cat([mask, m]))
        loss = e[:len(x)].mean()-e[len(x):].mean()+.1*e.square().mean()
        opt.zero_grad(); loss.backward(); nn.utils.clip_grad_norm_(net.parameters(), .1); opt.step()
        chains[:0] = list(zip(y.unbind(), m.unbind())); del chains[10_000:]
    return step

SIZES = {'published size: 8 blocks of 128, 16 heads, 1024': dict(frame='axis', width=128, depth=8, heads=16, hidden=1024), 'deep set of 128': dict(frame='axis', net='deepset', width=128),
    'attention, 2 blocks of 64': dict(frame='axis', width=64, depth=2, heads=4), 'on axes: deep set of 64': dict(net='deepset', width=64), 'on axes: attention, 1 block of 32': dict(width=32, depth=1, heads=4)}

def our_step(train, size, dev, **kw):
    torch.manual_seed(0)
    E = J.JetEnergy(**kw, pool=0).fit(train).to(dev)
    make, n, _ = J._make(.1 if 'frame' in kw else .001, .005, False, 24, E.frame)
    loop = updates(Task(E, MLE(make, n, Pool(lambda n, g: E.rows(n, g), 10_000, .05), reg=.1, noise=.005*E.frame.metric, far=1e4), adam(1e-4, betas=(0., .999))), E.inputs(train).to(dev), size, 0)
    return lambda: next(loop)

def clock(f, dev):
    if dev=='cpu': t = time.process_time(); w = time.perf_counter(); f(); return (time.process_time()-t, time.perf_counter()-w)
    torch.cuda.synchronize(); t = time.perf_counter(); f(); torch.cuda.synchronize()
    return (time.perf_counter()-t,)*2

def steps(a):
    train = sample('jets', 'train'); train = train[train.label==0]
    n, dev = (16 if a.quick else 128), a.device
    few = train[:n].to(dev)
    b = J.JetEnergy(8, 0, frame='axis').fit(train).to(dev).inputs(few)
    torch.manual_seed(0)
    sizes = {k: v for k,v in SIZES.items() if not (a.quick and 'published' in k)}
    fs = dict(plain=plain_step(Plain(depth=1 if a.quick else 8).to(dev), b.x, b.mask)) | {k: our_step(train, n, dev, **kw) for k,kw in sizes.items()}
    for f in fs.values(): f()
    t = np.array([[clock(f, dev) for f in fs.values()] for _ in range(a.rounds)])
    say = (lambda v: f'{1e3*v:.0f} ms') if dev!='cpu' else (lambda v: f'{v:.2f} s')
    print('\n| energy | CPU time of a step | of the clock | plain eager loop / it |\n|---|---|---|---|')
    for i,k in enumerate(fs):
        r = np.quantile(t[:,0,0]/t[:,i,0], (.16,.5,.84))
        print(f'| {"plain eager loop at the published size" if k=="plain" else k} | {say(np.median(t[:,i,0]))} | {say(np.median(t[:,i,1]))} | '+(f'**{r[1]:.2f}** [{r[0]:.2f}, {r[2]:.2f}] |' if i else '1 |'), flush=True)

LADDER = {'deep set, 32': dict(net='deepset', width=32), 'deep set, 64': dict(net='deepset', width=64), 'deep set, 128': dict(net='deepset', width=128),
    'attention, 1 of 32': dict(width=32, depth=1, heads=4), 'attention, 1 of 64': dict(width=64, depth=1, heads=4), 'attention, 2 of 64': dict(width=64, depth=2, heads=4), 'attention, 2 of 128': dict(width=128, depth=2, heads=8)}

def judge(E, valid):
    real, made = valid[valid.label==0], J.sample_jets(E, len(E.pool), 50)
    r, g = J.spectra_of(real), J.spectra_of(made)
    b = E.score(real)
    tag = {k: auc(torch.cat([b, s := E.score(valid[valid.label==i])]), torch.cat([torch.zeros(len(b)), torch.ones(len(s))])) for i,k in enumerate(JETS) if i}
    return {k: jsd(r[k], g[k], range=J.SPECTRA[k]) for k in ('mass','tau21','sum_z')} | tag | dict(FPD=fpd(jet_features(real, 1.), jet_features(made, 1.), min_samples=len(made)//2, max_samples=len(made))[0])

def ladder(a):
    train, valid = sample('jets', 'train'), sample('jets', 'valid')
    train, n = train[train.label==0], 20 if a.quick else a.updates
    print('\n| energy | parameters | updates | CPU s | JSD mass | tau21 | sum_z | FPD | AUC top | W | H |\n|---|---|---|---|---|---|---|---|---|---|---|')
    def row(name, kw, n):
        t = time.process_time()
        E = J.jet_ebm(train, updates=n, warm=300*n//250, seed=0, bar=None, **kw)
        t = time.process_time()-t
        q = judge(E, valid)
        print(f'| {name} | {sum(p.numel() for p in E.net.parameters()):,} | {n} | {t:.0f} | '+' | '.join(f'{q[k]:.3f}' for k in ('mass','tau21','sum_z','FPD','top','W','H'))+' |', flush=True)
        return t
    took = {k: row(k, kw, n) for k,kw in LADDER.items()}
    budget = took['attention, 1 of 64']
    print('| *at equal time* | | | | | | | | | | |')
    for k,kw in LADDER.items():
        m = round(n*budget/took[k])
        if m!=n: row(k, kw, m)

def mixing(a):
    train = sample('jets', 'train'); train = train[train.label==0][:4000]
    E = J.jet_ebm(train, 'deepset', updates=60, warm=100, pool=128, last=30, bar=None, seed=1)
    total = 100 if a.quick else 1000
    print(f'\n16 chains of one multiplicity from noise, {total} gradients, then as many that are looked at\n\n| kernel | R-hat: energy | mass | tau21 | ESS: energy | mass | tau21 | mean energy |\n|---|---|---|---|---|---|---|---|')
    for name,make,leaps in [('MALA, as trained', None, 1)] + [(f'HMC, step {h}, {L} leaps', partial(hmc, step=h, leaps=L, jitter=.3, mass=1/E.frame.metric), L) for h,L in ((.07,10),(.1,10),(.15,10),(.1,20))]:
        m = J.mixing(E, 16, total//leaps, every=max(1, total//leaps//125), make=make)
        print(f'| {name} | '+' | '.join(f'{m.rhat[k]:.2f}' for k in ('energy','mass','tau21'))+' | '+' | '.join(f'{m.ess[k]:.0f}' for k in ('energy','mass','tau21'))+f' | {m["mean"].energy:.1f} |', flush=True)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('parts', nargs='*', default=['step','ladder','mixing']); p.add_argument('--rounds', type=int, default=3); p.add_argument('--threads', type=int, default=1); p.add_argument('--device', default='cpu'); p.add_argument('--updates', type=int, default=250, help='of the ladder'); p.add_argument('--quick', action='store_true')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    print(f'torch {torch.__version__}, Python {platform.python_version()}, {torch.cuda.get_device_name() if a.device!="cpu" else platform.processor() or platform.machine()}, {a.threads} thread{"s"*(a.threads>1)}, {a.rounds} rounds')
    for part in a.parts: dict(step=steps, ladder=ladder, mixing=mixing)[part](a)
