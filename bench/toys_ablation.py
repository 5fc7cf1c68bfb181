"""What jumps bring to chains, and a wide start to denoising, on densities that are known exactly: `python bench/toys_ablation.py [--seeds 3] [--seconds 15] [--quick]`

Each pair of rows differs in one thing; the network, the budget of CPU seconds on one thread and the judgement are those of `hepebm run toys`.
"""
import argparse, os, platform, warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
import numpy as np, torch
from fastcore.basics import AttrDict
from joblib import Parallel, delayed
from hepebm.data.toys import toys
from hepebm.ebm.objectives import MLE, NormalNoise, denoising_sm, recipes
from hepebm.ebm.samplers import Pool, mala
from hepebm.studies.studies import settings_of
from hepebm.studies.toys import judge_toy, train_toy

def finest(x, density): return min(density.fine, x.std(0).mean().item()/4)

def no_jumps(x, density, seed, pool=None):
    "The recipe of contrastive divergence, or of persistent chains, with the Metropolis-adjusted Langevin step alone"
    prior = NormalNoise(x, widen=1.5)
    return MLE(partial(mala, step=.6*finest(x, density)**2), 10, pool and Pool(lambda n,g: prior.sample(n, g), 512, 0., seed), reg=1e-3, accept=.57, seed=seed)

RIVALS = {'contrastive divergence': 'cd', 'contrastive divergence, no jumps': no_jumps, 'persistent chains': 'persistent', 'persistent chains, no jumps': partial(no_jumps, pool=True),
    'denoising': 'denoising', 'denoising, at its noise from the start': lambda x, density, seed: denoising_sm(finest(x, density), seed=seed)}

def one(toy, name, seed, s):
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    try: E,budget,_ = train_toy(toys[toy], RIVALS[name], s, seed)
    except FloatingPointError as e: return dict(diverged=str(e))
    return judge_toy(toys[toy], E, s, seed) | dict(updates=budget.n, back=budget.back)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--seconds', type=float, default=15.); p.add_argument('--jobs', type=int, default=2); p.add_argument('--quick', action='store_true', help='two updates of a small network')
    a = p.parse_args()
    s = AttrDict(settings_of('toys', 'smoke', updates=2) if a.quick else settings_of('toys', 'laptop', seconds=a.seconds))
    print(f'torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {a.seconds:g} CPU s a training, {a.seeds} seeds\n\n| | toy | updates | KL [nat] by seed | mass of modes / truth | guard went back |\n|---|---|---|---|---|---|')
    jobs = [(t, n) for t in ('8gaussians','4squares') for n in RIVALS]
    for (t,n),rs in zip(jobs, Parallel(a.jobs, return_as='generator')(delayed(lambda t, n: [one(t, n, k, s) for k in range(a.seeds)])(*j) for j in jobs)):
        done = [r for r in rs if 'kl' in r]
        kl = ', '.join(f'{r["kl"]:.3g}' for r in done)
        words = f'{np.mean([r["updates"] for r in done]):.0f} | {kl} | {min(r["least"] for r in done):.2g} to {max(r["largest"] for r in done):.2g} | {sum(r["back"] for r in done)}' if done else '| | |'
        print(f'| {n} | {t} | {words} |' + f' {len(rs)-len(done)} diverged'*(len(rs)>len(done)), flush=True)
