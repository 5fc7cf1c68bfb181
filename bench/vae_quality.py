"""Autoencoders as taggers, paired over seeds and test jets: what decorrelation and outliers gain and cost.

    python bench/vae_quality.py [--seeds 5] [--replicas 150] [--lams .3 .4 .5 .6 1 3] [--out FILE.json]

Shipped jets: trained on 8,000 QCD jets (and 1,000 W as outliers) by the recipe of `hepebm run vae`: weights of DisCo and OE rise during the first .3 of the updates. Scores: the published bound (beta .1) at the mean code, and where it says so the divergence.
All settings are scanned on the validation split (1,000 QCD, 200 jets of each signal), where one of each kind is chosen; the numbers of the test split (3,000 and 800) are given for all, and nothing is chosen there.
JSD: divergence [nat] of the mass of the half of the background with the higher scores from that of all, less what chance would do. Flat: AUC with both classes weighted to a flat mass (30 to 330 GeV, of 15 bins those with 10 jets of each).
Differences are to the plain VAE of the same seed. Their 95 % intervals add in squares Student's t over the seeds and 1.96 deviations of the mean over the seeds when the jets are resampled, the same for all models.
'JSD, x or more': the largest r for which (JSD of the plain VAE) - r (JSD) is above 0 at 97.5 %.
"""
import argparse, json, platform, time
import numpy as np, scipy.stats as st, torch
from pathlib import Path
from hepebm import __version__
from hepebm.core.arrays import atomic
from hepebm.core.independence import flat_mass
from hepebm.core.metrics import auc, distance_corr, sculpting
from hepebm.core.training import cyclic
from hepebm.data.samples import JETS, sample
from hepebm.vae.disco import disco, mass_weights
from hepebm.vae.outliers import outlier_exposure
from hepebm.vae.vae import elbo, elbo_score, jet_vae, kl_score

EDGES, RAMP, PLAIN = np.linspace(30, 330, 16), .3, 'VAE'
EXPOSURES = [('kl-each', 2., True), ('kl-each', .5, True), ('kl-each', 2., False), ('kl', 2., True), ('mse-margin', 1., True), ('mse-sigmoid', 1., True)]
BOTH = PLAIN, 'OE kl-each, λ = 2'  # judged by their divergence too

def late(n, epochs, size): return cyclic(RAMP*epochs*-(-n//size), cycles=1, rise=1.)

def models(qcd, W, seed, lams):
    "name, function that trains it"
    def taught(kind, lam, matched):
        def objective(m):
            o = m.inputs(W)
            return outlier_exposure(elbo(.1, seed=seed), o, kind=kind, lam=lam, margin=1., weight=mass_weights(o.mass, m.inputs(qcd).mass) if matched else None, schedule=late(len(qcd), 40, 256), seed=seed)
        return jet_vae(qcd, objective, epochs=40, seed=seed, bar=None)
    yield PLAIN, lambda: jet_vae(qcd, epochs=40, seed=seed, bar=None)
    yield 'DisCo, λ = 0', lambda: jet_vae(qcd, epochs=60, size=1024, seed=seed, bar=None)
    for lam in lams: yield f'DisCo, λ = {lam:g}', lambda lam=lam: jet_vae(qcd, disco(elbo(.1, seed=seed), lam=lam, schedule=late(len(qcd), 60, 1024)), epochs=60, size=1024, seed=seed, bar=None)
    for kind,lam,matched in EXPOSURES: yield f'OE {kind}, λ = {lam:g}' + ', mass as it is'*(not matched), lambda kind=kind,lam=lam,matched=matched: taught(kind, lam, matched)

def scores(m, split, f):
    with torch.no_grad(): return {k: f(m, split[split.label==i]).numpy().astype(float) for i,k in enumerate(JETS)}

def judge(s, mass, draws=20):
    "Numbers of one model from its scores by class"
    b, mb = s['QCD'], mass['QCD']
    after, floor = sculpting(b, mb, .5, draws=draws)
    row = {'JSD': after-floor}
    for k in JETS[1:]: row[f'AUC {k}'] = auc(np.r_[b, s[k]], np.r_[np.zeros(len(b)), np.ones(len(s[k]))])
    for k in JETS[1:]:
        w = np.concatenate(flat_mass(mb, mass[k], edges=EDGES, least=10))
        row[f'flat {k}'] = auc(np.r_[b, s[k]], np.r_[np.zeros(len(b)), np.ones(len(s[k]))], w)
    return row

def table(got, mass):
    "(models, seeds, numbers)"
    return np.array([[[*judge(s, mass).values()] for s in seeds] for seeds in got.values()])

def resampled(got, mass, n):
    "The same for `n` samples drawn with replacement, averaged over the seeds: (n, models, numbers)"
    rng, out = np.random.default_rng(0), []
    for _ in range(n):
        i = {k: rng.integers(len(v), size=len(v)) for k,v in mass.items()}
        out.append([np.mean([[*judge({k: v[i[k]] for k,v in s.items()}, {k: v[i[k]] for k,v in mass.items()}, draws=5).values()] for s in seeds], axis=0) for seeds in got.values()])
    return np.array(out)

def interval(d, boot):
    "Half of the 95 % interval of the mean of `d` (seeds,), with that of `boot` (replicas,)"
    seeds = st.t.ppf(.975, len(d)-1)*np.std(d, ddof=1)/len(d)**.5 if len(d)>1 else 0.
    return float(np.hypot(seeds, st.norm.ppf(.975)*np.std(boot)))

def at_least(plain, other, plain_boot, other_boot):
    "Largest ratio of two positive numbers that the data exclude from below"
    lo, hi = 0., 1e4
    for _ in range(60):
        r = (lo+hi)/2
        d = plain-r*other
        lo, hi = (r, hi) if d.mean() > interval(d, plain_boot-r*other_boot) else (lo, r)
    return lo

def say(title, head, rows): print(f'\n{title}\n\n| | ' + ' | '.join(head) + ' |\n|' + '---|'*(len(head)+1) + '\n' + '\n'.join(f'| {k} | ' + ' | '.join(v) + ' |' for k,v in rows.items()), flush=True)

def report(split, got, mass, base, n, extra):
    "Tables of a split, and the differences"
    keys, t, boot = [*judge(got[PLAIN][0], mass)], table(got, mass), resampled(got, mass, n)
    digits = [4 if k=='JSD' else 3 for k in keys]
    say(f'{split}: mean (deviation over seeds)', keys+list(extra), {name: [f'{v:.{d}f} ({s:.{d}f})' for v,s,d in zip(row.mean(0), row.std(0, ddof=min(1, len(row)-1)), digits)] + [f(name) for f in extra.values()] for name,row in zip(got, t)})
    names, rows, kept = [*got], {}, {}
    for i,name in enumerate(names):
        if name in base.values(): continue
        j = names.index(base.get(name, PLAIN))
        d, b = t[i]-t[j], boot[:,i]-boot[:,j]
        kept[name] = {k: [d[:,q].mean(), interval(d[:,q], b[:,q])] for q,k in enumerate(keys)} | {'ratio': at_least(t[j,:,0], t[i,:,0], boot[:,j,0], boot[:,i,0])}
        rows[name] = [f'{kept[name]["ratio"]:.1f}'] + [f'{v:+.{g}f} ± {e:.{g}f}' for (v,e),g in zip((kept[name][k] for k in keys), digits)]
    say(f'{split}: less the plain VAE of the same seed, 95 % intervals over seeds and jets', ['JSD, x or more', *keys], rows)
    return {name: {k: v.tolist() for k,v in zip(keys, row.T)} for name,row in zip(got, t)}, kept

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=5); p.add_argument('--replicas', type=int, default=150); p.add_argument('--lams', type=float, nargs='+', default=[.3,.4,.5,.6,1,3]); p.add_argument('--out')
    a = p.parse_args()
    torch.set_num_threads(1)
    train, *splits = (sample('jets', s) for s in ('train','valid','test'))
    qcd, W = (train[train.label==i] for i in (0, JETS.index('W')))
    got, took, masses, dcors = [{}, {}], {}, None, {}
    for seed in range(a.seeds):
        for name,make in models(qcd, W, seed, a.lams):
            t = time.process_time()
            m = make()
            took.setdefault(name, []).append(time.process_time()-t)
            masses = masses or [{k: m.inputs(s[s.label==i]).mass.numpy().astype(float) for i,k in enumerate(JETS)} for s in splits]
            for f,end in ((elbo_score,''),) + ((kl_score,', divergence'),)*(name in BOTH):
                for g,s in zip(got, splits): g.setdefault(name+end, []).append(scores(m, s, f))
                dcors.setdefault(name+end, []).append(distance_corr(got[1][name+end][-1]['QCD'], masses[1]['QCD'], True))
    base = {k: f'{PLAIN}, divergence' for k in got[0] if k.endswith(', divergence')} | {PLAIN: PLAIN}
    print(f'hepebm {__version__}, torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread, {a.seeds} seeds, {a.replicas} replicas')
    none = {'dCor²': lambda k: f'{np.mean(dcors[k]):.3f} ({np.std(dcors[k], ddof=min(1, a.seeds-1)):.3f})', 'CPU s': lambda k: f'{np.mean(took[k]):.0f}' if k in took else ''}
    valid, gains = report('Validation split', got[0], masses[0], base, a.replicas, {})
    low = [k for k in gains if k.startswith('DisCo') and gains[k]['ratio']>5]
    unseen = {k: np.mean([v for c in ('top','H') for v in valid[k][f'AUC {c}']]) for k in valid if k.startswith('OE') and not k.endswith('divergence')}
    print(f'\nChosen there: of DisCo the first whose JSD is surely 5 times lower, {low[0] if low else "none"}; of OE the one with the highest mean AUC of top and H, {max(unseen, key=unseen.get)}.', flush=True)
    test, more = report('Test split', got[1], masses[1], base, a.replicas, none)
    if a.out:
        with atomic(a.out) as tmp: Path(tmp).write_text(json.dumps(dict(valid=valid, valid_gains=gains, test=test, test_gains=more, dcor=dcors), indent=1))

if __name__=='__main__': main()
