"""Samplers on one thread against public torch libraries, in turn, by CPU time: `python bench/samplers.py [rounds]`

Speed: steps a second of a 2-128-128-1 SiLU network in float32. Efficiency: effective samples a CPU second of 64 chains x 400 draws after 100, the best step of a grid
for each sampler, counted only where means and deviations are within 10 % of the truth.
"""
import os, platform, sys, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
from importlib.metadata import version
import ebm.samplers as peer, numpy as np, torch
from torchebm.core import BaseModel
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from hepebm.data.toys import mixture, toys
from hepebm.ebm.diagnostics import ess, rhat
from hepebm.ebm.energies import MLPEnergy
from hepebm.ebm.samplers import generator, hmc, langevin, mala, nuts, parallel_tempering, run, start, tune

torch.set_num_threads(1)

class Theirs(BaseModel):
    "An energy as torchebm wants it"
    def __init__(self, E): super().__init__(); self.E = E
    def forward(self, x): return self.E(x)

def loop(E, x, step, n):
    "What one writes by hand"
    for _ in range(n):
        x = x.detach().requires_grad_()
        g, = torch.autograd.grad(E(x).sum(), x)
        x = x.detach()-step*g+(2*step)**.5*torch.randn_like(x)
    return x

def cpu(f):
    t = time.process_time(); f(); return time.process_time()-t

def speed(rounds):
    torch.manual_seed(0)
    E = MLPEnergy()
    T = Theirs(E)
    print('\n| kernel | chains | torchebm [steps/s] | hepebm / torchebm | ebmkit / torchebm | plain loop / torchebm |\n|---|---|---|---|---|---|')
    for name,chains,n in (('Langevin',4096,20),('Langevin',512,80),('Langevin',64,200),('HMC, 10 leaps',4096,2),('HMC, 10 leaps',64,20)):
        x = torch.randn(chains, 2)
        if name=='Langevin':
            a = LangevinDynamics(T, step_size=.01)
            fs = [lambda: a.sample(x=x.clone(), n_steps=n), lambda: run(langevin(E, .01), start(E, x, 0), n), lambda: peer.LangevinDynamics(step_size=.01).sample(E, x, steps=n), lambda: loop(E, x, .01, n)]
        else:
            a = HamiltonianMonteCarlo(T, step_size=.05, n_leapfrog_steps=10)
            fs = [lambda: a.sample(x=x.clone(), n_steps=n), lambda: run(hmc(E, .05, 10), start(E, x, 0), n), lambda: peer.HMC(step_size=.05, leapfrog_steps=10).sample(E, x, steps=n)]
        for f in fs: f()
        t = np.array([[cpu(f) for f in fs] for _ in range(rounds)])
        q = np.quantile(t[:,:1]/t, (.16,.5,.84), axis=0)
        print(f'| {name} | {chains} | {n/np.median(t[:,0]):.0f} | '+' | '.join(f'**{q[1,i]:.2f}** [{q[0,i]:.2f}, {q[2,i]:.2f}]' for i in range(1, len(fs)))+(' |' if len(fs)==4 else ' | |'), flush=True)

def targets():
    S = torch.tensor([[1.,.95],[.95,1.]]); P = S.inverse()
    c = torch.stack([f(torch.arange(8)*torch.pi/4) for f in (torch.cos,torch.sin)], -1)*8**.5
    ring, banana = mixture(c, sd=.6), toys['banana']
    gauss = lambda x: ((x@P)*x).sum(-1)/2
    yield 'Gaussian, .95', gauss, torch.zeros(2), torch.ones(2), torch.randn(64, 2, generator=generator(0))
    yield 'banana', lambda x: -banana.log_prob(x), torch.zeros(2), torch.tensor([1.2, (.4**2+2*.6**2*1.2**4)**.5]), banana.sample(64, 0).float()
    yield 'ring of eight', lambda x: -ring.log_prob(x), torch.zeros(2), torch.full((2,), (.6**2+4)**.5), c[:1]+.6*torch.randn(64, 2, generator=generator(0))

GRID = dict(mala=(.02,.05,.1,.2,.5,1.), hmc=(.05,.1,.2,.4,.7,1.))
HOT = (1., 2., 4., 8.)

def samplers(E):
    "name -> (make of a step, steps)"
    def ours(make): return lambda x, n, h: _keep(make(E, h), start(E, x, 1), n)
    def theirs(make): return lambda x, n, h: make(h).sample(E, x, steps=n, return_trajectory=True)[1:]
    def torche(cls, **kw): return lambda x, n, h: cls(Theirs(E), step_size=h, **kw).sample(x=x, n_steps=n, return_trajectory=True).transpose(0, 1)[-n:]
    yield 'torchebm Langevin', torche(LangevinDynamics), GRID['mala']
    yield 'torchebm HMC', torche(HamiltonianMonteCarlo, n_leapfrog_steps=10), GRID['hmc']
    yield 'ebmkit MALA', theirs(lambda h: peer.MALA(step_size=h)), GRID['mala']
    yield 'hepebm MALA', ours(lambda E, h: mala(E, h)), GRID['mala']
    yield 'ebmkit HMC', theirs(lambda h: peer.HMC(step_size=h, leapfrog_steps=10)), GRID['hmc']
    yield 'hepebm HMC', ours(lambda E, h: hmc(E, h, 10, jitter=.3)), GRID['hmc']
    yield 'ebmkit tempering', theirs(lambda h: peer.ParallelTempering(peer.MALA(step_size=h), temperatures=HOT)), GRID['mala']
    yield 'hepebm tempering', ours(lambda E, h: parallel_tempering(partial(mala, step=h), E, HOT)), GRID['mala']
    yield 'ebmkit NUTS', theirs(lambda h: peer.NUTS(step_size=h)), (.1,.4)
    yield 'hepebm NUTS', ours(lambda E, h: nuts(E, mass='dense', warm=100)), (.1,)
    yield 'hepebm tuned HMC', ours(lambda E, h: tune(partial(hmc, leaps=10, jitter=.3), 100, mass='dense')(E)), (.1,)

def _keep(kernel, s, n):
    out = []
    for _ in range(n): s = kernel(s); out.append(s.x)
    return torch.stack(out)

def efficiency(rounds, burn=100, keep=400):
    print('\n| target | sampler | best step | min ESS / CPU s [16, 84 %] | R-hat | error of mean, deviation |\n|---|---|---|---|---|---|')
    for name,E,mean,sd,x in targets():
        best = {}
        for k,f,steps in samplers(E):
            for h in steps:
                torch.manual_seed(0)
                try: t = time.process_time(); xs = f(x, burn+keep, h)[burn:]; t = time.process_time()-t
                except Exception as e: print(f'| {name} | {k} | {h} | {type(e).__name__}: {str(e)[:60]} | | |'); break
                if not xs.isfinite().all(): continue
                off = max(((xs.flatten(0,1).mean(0)-mean)/sd).abs().max().item(), (xs.flatten(0,1).std(0)/sd-1).abs().max().item())
                r = ess(xs).min()/t, h, rhat(xs).max(), off, f
                if k not in best or (r[3]<.1, r[0]*(r[3]<.1) or -r[3]) > (best[k][3]<.1, best[k][0]*(best[k][3]<.1) or -best[k][3]): best[k] = r
        rates = {k: [] for k in best}
        for i in range(rounds):
            for k,(_,h,_,_,f) in best.items():
                torch.manual_seed(i)
                t = time.process_time(); xs = f(x, burn+keep, h)[burn:]; t = time.process_time()-t
                rates[k].append(ess(xs).min()/t)
        for k,(_,h,r,off,_) in best.items():
            lo,mid,hi = np.quantile(rates[k], (.16,.5,.84))
            print(f'| {name} | {k} | {h} | '+(f'{mid:.0f} [{lo:.0f}, {hi:.0f}]' if off<.1 else f'does not count ({mid:.0f})')+f' | {r:.3f} | {off:.3f} |', flush=True)

if __name__=='__main__':
    rounds = int(sys.argv[1]) if len(sys.argv)>1 else 9
    print(f'torch {torch.__version__}, torchebm {version("torchebm")}, ebmkit {version("ebmkit")}, Python {platform.python_version()}, {platform.processor() or platform.machine()}, one thread, {rounds} rounds')
    speed(rounds)
    efficiency(min(rounds, 5))
