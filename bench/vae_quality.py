"""Autoencoders as taggers, paired over seeds: what decorrelation and outliers gain and cost.

    python bench/vae_quality.py [--seeds 5] [--lams .3 .6 1 3 10] [--exposures .3 1 3] [--out FILE.json]

Shipped jets: trained on 8,000 QCD jets (and 1,000 W as outliers), judged on 3,000 QCD and 800 jets of each signal of the test split. The score is the published bound (beta .1) at the mean code.
JSD: divergence [nat] of the mass of the half of the background with the higher scores from that of all, less what chance would do. Flat: AUC with both classes weighted to a flat mass (30 to 330 GeV, 15 bins).
Differences are to the plain VAE of the same seed, with 95 % intervals of Student's t over the seeds.
"""
import argparse, json, platform, time
import numpy as np, scipy.stats as st, torch
from pathlib import Path
from hepebm import __version__
from hepebm.core.arrays import atomic
from hepebm.core.independence import auc_at_flat_mass
from hepebm.core.metrics import auc, distance_corr, sculpting
from hepebm.data.samples import JETS, sample
from hepebm.vae.disco import disco, mass_weights
from hepebm.vae.outliers import outlier_exposure
from hepebm.vae.vae import elbo, jet_vae

EDGES = np.linspace(30, 330, 16)

def judge(m, test):
    s, mass = ({k: f(test[test.label==i]) for i,k in enumerate(JETS)} for f in (m.score, lambda a: m.inputs(a).mass))
    b = s['QCD']
    after, floor = sculpting(b, mass['QCD'], .5)
    both = lambda v: auc(torch.cat([b, v]), torch.cat([torch.zeros(len(b)), torch.ones(len(v))]))
    return {'JSD': after-floor, 'dCor²': distance_corr(b, mass['QCD'], True)} | {f'AUC {k}': both(s[k]) for k in JETS[1:]} | {f'flat {k}': auc_at_flat_mass(b, mass['QCD'], s[k], mass[k], EDGES, n=2)['auc'] for k in JETS[1:]}

def models(qcd, W, seed, lams, exposures):
    "name -> trained autoencoder, one at a time"
    yield 'VAE', lambda: jet_vae(qcd, epochs=40, seed=seed, bar=None)
    for lam in lams: yield f'DisCo, λ = {lam:g}', lambda: jet_vae(qcd, lambda m: disco(elbo(.1, seed=seed), lam=lam), epochs=60, size=1024, seed=seed, bar=None)
    def taught(lam, matched=True): return jet_vae(qcd, lambda m: outlier_exposure(elbo(.1, seed=seed), (o := m.inputs(W)), kind='mse-sigmoid', lam=lam, weight=mass_weights(o.mass, m.inputs(qcd).mass) if matched else None, seed=seed), epochs=40, seed=seed, bar=None)
    for lam in exposures: yield f'OE, λ = {lam:g}', lambda: taught(lam)
    yield f'OE, λ = {exposures[-1]:g}, mass as it is', lambda: taught(exposures[-1], False)

def interval(d): return st.t.ppf(.975, len(d)-1)*np.std(d, ddof=1)/len(d)**.5 if len(d)>1 else np.nan

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=5); p.add_argument('--lams', type=float, nargs='+', default=[.3,.6,1,3,10]); p.add_argument('--exposures', type=float, nargs='+', default=[.3,1,3]); p.add_argument('--out')
    a = p.parse_args()
    torch.set_num_threads(1)
    train, test = sample('jets', 'train'), sample('jets', 'test')
    qcd, W = (train[train.label==i] for i in (0, JETS.index('W')))
    got, took = {}, {}
    for seed in range(a.seeds):
        for name,make in models(qcd, W, seed, a.lams, a.exposures):
            t = time.process_time()
            got.setdefault(name, []).append(judge(make(), test)); took.setdefault(name, []).append(time.process_time()-t)
    keys, base = [*got['VAE'][0]], got['VAE']
    print(f'hepebm {__version__}, torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread, {a.seeds} seeds: mean (deviation over seeds)\n\n| | ' + ' | '.join(keys) + ' | CPU s |\n|' + '---|'*(len(keys)+2))
    for name,rows in got.items(): print(f'| {name} | ' + ' | '.join(f'{np.mean(v := [r[k] for r in rows]):.4f} ({np.std(v, ddof=min(1, len(v)-1)):.4f})' if k=='JSD' else f'{np.mean(v := [r[k] for r in rows]):.3f} ({np.std(v, ddof=min(1, len(v)-1)):.3f})' for k in keys) + f' | {np.mean(took[name]):.0f} |')
    print('\nLess the plain VAE of the same seed; for JSD the plain one over it, from means\n\n| | ' + ' | '.join(['JSD ratio', *keys[1:]]) + ' |\n|' + '---|'*(len(keys)+1))
    for name,rows in got.items():
        if name=='VAE': continue
        d = {k: np.array([r[k]-b[k] for r,b in zip(rows, base)]) for k in keys}
        print(f'| {name} | {np.mean([b["JSD"] for b in base])/max(1e-9, np.mean([r["JSD"] for r in rows])):.1f} | ' + ' | '.join(f'{d[k].mean():+.3f} ± {interval(d[k]):.3f}' for k in keys[1:]) + ' |')
    if a.out:
        with atomic(a.out) as tmp: Path(tmp).write_text(json.dumps(got, indent=1))

if __name__=='__main__': main()
