"""One step of training, forward, backward and Adam, of each objective against public torch libraries: `python bench/objectives.py [--rounds 9] [--quick] [--device cuda]`

The same 2-128-128-1 SiLU network in float32, the same 256 events, in turn; CPU time on one thread, or the time of the clock after synchronising on a GPU. Chains are Langevin's, step .01.
"""
import argparse, copy, os, platform, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
from importlib.metadata import version
import ebm.buffer, ebm.losses as peer, ebm.samplers, numpy as np, torch, torchebm.losses as other
from torchebm.core import BaseModel
from torchebm.samplers import LangevinDynamics
from hepebm.data.toys import toys
from hepebm.ebm.energies import MLPEnergy
from hepebm.ebm.objectives import MLE, NCE, NormalNoise, denoising_sm, energy_discrepancy, exact_sm, hutchinson_sm, sliced_sm
from hepebm.ebm.samplers import Pool, langevin

class Theirs(BaseModel):
    "An energy as torchebm wants it"
    def __init__(self, E): super().__init__(); self.E = E
    def forward(self, x): return self.E(x)

def objectives(x):
    "name, then what makes of an energy the function from data to loss: ours, torchebm's, ebmkit's (or None)"
    dev = x.device
    def ours(o): o = o.to(dev) if isinstance(o, torch.nn.Module) else o; return lambda E: lambda x: sum(v for k,v in o(E, dict(x=x)).items() if k[0]!='_')
    def kit(o): o = o.to(dev) if isinstance(o, torch.nn.Module) else o; return lambda E: lambda x: o(E, x).loss
    def torche(name, first=False, **kw):
        def make(E):
            T = Theirs(E).to(dev)
            if name=='ContrastiveDivergence': kw['sampler'] = LangevinDynamics(T, step_size=.01, device=dev)
            o = getattr(other, name)(model=T, device=dev, **kw)
            return lambda x: o(x)[0] if first else o(x)
        return make
    def prior(n, g): return torch.randn(n, 2, generator=g, device=g.device)
    cd = partial(torche, 'ContrastiveDivergence', True, k_steps=10, energy_reg_weight=0.)
    chain = ebm.samplers.LangevinDynamics(step_size=.01, steps=10)
    noise = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T))
    yield 'CD, 10 steps', ours(MLE(partial(langevin, step=.01), 10)), cd(), kit(peer.ContrastiveDivergence(chain))
    yield 'PCD, 10 steps, pool of 10,000', ours(MLE(partial(langevin, step=.01), 10, Pool(prior, 10_000))), cd(persistent=True, buffer_size=10_000), kit(peer.ContrastiveDivergence(chain, buffer=ebm.buffer.ReplayBuffer(10_000, (2,))))
    yield 'denoising, .1', ours(denoising_sm(.1)), torche('DenoisingScoreMatching', noise_scale=.1), kit(peer.DenoisingScoreMatching(.1))
    yield 'sliced, exact square (Hutchinson)', ours(hutchinson_sm), torche('SlicedScoreMatching', n_projections=1), kit(peer.SlicedScoreMatching(1, vr=True))
    yield 'sliced', ours(sliced_sm), None, kit(peer.SlicedScoreMatching(1, vr=False))
    yield 'exact score matching', ours(exact_sm), torche('ScoreMatching'), kit(peer.ExactScoreMatching())
    yield 'energy discrepancy, 16 draws', ours(energy_discrepancy(.5, 16)), None, kit(peer.EnergyDiscrepancy(.5, 16))
    yield 'NCE, 4 draws', ours(NCE(NormalNoise(x), 4)), None, kit(peer.NoiseContrastiveEstimation(noise, 4))

def step(make, x, E):
    "One step of training of a copy of `E`"
    E = copy.deepcopy(E)
    loss, opt = make(E), torch.optim.Adam(E.parameters(), 1e-3)
    def go():
        opt.zero_grad()
        loss(x).backward()
        opt.step()
    return go

def seconds(f, n, cuda):
    if cuda: torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    t = clock()
    for _ in range(n): f()
    if cuda: torch.cuda.synchronize()
    return (clock()-t)/n

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--quick', action='store_true'); p.add_argument('--device', default='cpu')
    a = p.parse_args()
    torch.set_num_threads(1)
    cuda, rounds, least = a.device.startswith('cuda'), 3 if a.quick else a.rounds, .02 if a.quick else .2
    where = torch.cuda.get_device_name(a.device) if cuda else f'{platform.processor() or platform.machine()}, one thread'
    print(f'torch {torch.__version__}, torchebm {version("torchebm")}, ebmkit {version("ebmkit")}, Python {platform.python_version()}, {where}, {rounds} rounds\n')
    print('| objective | hepebm [ms a step] | torchebm / hepebm | ebmkit / hepebm |\n|---|---|---|---|')
    torch.manual_seed(0)
    E, x = MLPEnergy().to(a.device), toys['8gaussians'].sample(256, 0).float().to(a.device)
    for name,*makes in objectives(x):
        fs = [m and step(m, x, E) for m in makes]
        for f in fs: f and seconds(f, 3, cuda)
        n = max(2, int(least/seconds(fs[0], 3, cuda)))
        t = np.array([[seconds(f, n, cuda) if f else np.nan for f in fs] for _ in range(rounds)])
        lo,mid,hi = np.quantile(t/t[:,:1], (.16,.5,.84), axis=0)
        print(f'| {name} | {1e3*np.median(t[:,0]):.2f} | '+' | '.join(f'**{mid[i]:.2f}** [{lo[i]:.2f}, {hi[i]:.2f}]' if fs[i] else '' for i in (1,2))+' |', flush=True)

if __name__=='__main__': main()
