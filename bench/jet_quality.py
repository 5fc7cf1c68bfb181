"""Quality of the jet EBM: both networks by seeds, and what each choice of the recipe bought.

    python bench/jet_quality.py [--seeds 3] [--first 0] [--ablate] [--out bench/results/jet_quality.json]

Figures are for the shipped jets: JSD [nat] of 512 generated jets, one for each chain, against the 3,000 QCD test jets, AUC of the energy, CPU seconds of training on one thread.
"""
import argparse, json, platform, statistics as st, time
from pathlib import Path
import torch
from hepebm import __version__
from hepebm.core.arrays import atomic
from hepebm.core.metrics import auc, fpd, jsd
from hepebm.data.samples import JETS, sample
from hepebm.data import frames
from hepebm.ebm import jets as J
from hepebm.ebm.samplers import langevin
from hepebm.nn.efps import jet_features

COUNTED = 'mass girth tau21 tau32 sum_z'.split()
UPDATES = dict(attention=250, deepset=300)

def quality(E, test):
    "JSD of every counted spectrum, AUC of every signal"
    return spectra(E, test, J.sample_jets(E, len(E.pool), 50)) | tagging(E, test)

def tagging(E, test, **kw):
    b = E.score(test[test.label==0], **kw)
    both = lambda s: auc(torch.cat([b, s]), torch.cat([torch.zeros(len(b)), torch.ones(len(s))]))
    return {f'AUC {k}': both(E.score(test[test.label==i], **kw)) for i,k in enumerate(JETS) if i}

def distance(test, jets): return fpd(jet_features(test[test.label==0], 1.), jet_features(jets, 1.), min_samples=len(jets)//2, max_samples=len(jets))[0]

def spectra(E, test, jets):
    real, gen = J.spectra_of(test[test.label==0], E.particles), J.spectra_of(jets, E.particles)
    return {k: jsd(real[k], gen[k], range=J.SPECTRA[k]) for k in COUNTED} | {'FPD': distance(test, jets)}

def once(train, test, net, seed, updates=None, **kw):
    start = time.process_time()
    E = J.jet_ebm(train, net, updates=updates or UPDATES[net], seed=seed, bar=None, **kw)
    seconds = time.process_time()-start
    finite = bool(torch.stack([p.isfinite().all() for p in E.parameters()]).all() and E.pool.isfinite().all())
    return E, quality(E, test) | {'diverged': float(not finite), 'CPU s': seconds}

def row(name, q): return f'| {name} | ' + ' | '.join(f'{q[k]:.3f}' if k in q else '' for k in COUNTED) + ' | ' + ' | '.join(f'{q[k]:.3f}' if k in q else '' for k in ('AUC top','AUC W','AUC H','FPD')) + (f' | {q["CPU s"]:.0f} |' if 'CPU s' in q else ' | |')
HEAD = '| | ' + ' | '.join(COUNTED) + ' | AUC top | AUC W | AUC H | FPD | CPU s |\n|' + '---|'*11

def plain(E, step, metric=1.):
    "Langevin at a fixed step, which says that the acceptance is as wanted: there is none that could steer it"
    kernel = langevin(E, .005*metric)
    return lambda s: kernel(s)._replace(accept=torch.full_like(s.energy, .6))

def ablations(train, test):
    "The recipe with one choice taken back at a time"
    def patched(J=J, **new):
        old = {k: getattr(J, k) for k in new}
        for k,v in new.items(): setattr(J, k, v)
        try: return once(train, test, 'deepset', 0)[1]
        finally:
            for k,v in old.items(): setattr(J, k, v)
    class Eager(J.MLE):
        def __init__(self, *a, **kw): super().__init__(*a, **{**kw, 'waits': 0})
    class Open(J.ProngFrame):
        def fit(self, *a):
            super().fit(*a)
            self.widest.fill_(torch.inf), self.least.fill_(1e-9)
            return self
    yield 'the recipe', lambda: once(train, test, 'deepset', 0)[1]
    yield 'Langevin at a fixed step, without Metropolis step', lambda: patched(jittered=plain)
    yield 'without walls at the widest and the least of training', lambda: patched(ProngFrame=Open)
    yield 'without warm start', lambda: once(train, test, 'deepset', 0, warm=0)[1]
    yield 'without waiting for the chains', lambda: patched(MLE=Eager)
    yield 'linear angles', lambda: patched(frames, R0=1e3)
    yield 'weak penalty on the tilt (1e-3)', lambda: once(train, test, 'deepset', 0, reg=1e-3)[1]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3); p.add_argument('--first', type=int, default=0); p.add_argument('--ablate', action='store_true'); p.add_argument('--out')
    a = p.parse_args()
    torch.set_num_threads(1)
    train, test = sample('jets', 'train'), sample('jets', 'test')
    train = train[train.label==0]
    results, start = {}, J.JetEnergy(width=8, depth=0).fit(train)
    print(f'hepebm {__version__}, torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread\n\n{HEAD}')
    results['noise, true n and pt, no chain, no network'] = spectra(start, test, J.noise_jets(start, 512)) | tagging(start, test, net=False)
    results['real, 512 training jets (floor)'] = spectra(start, test, train[:512])
    for k,q in results.items(): print(row(k, q), flush=True)
    if a.ablate:
        for k,f in ablations(train, test):
            try: results[k] = f()
            except FloatingPointError as e: results[k] = {'diverged': str(e).split(':')[0]}
            print(row(k, results[k]) if 'mass' in results[k] else f'| {k} | diverged: {results[k]["diverged"]} |'+' |'*9, flush=True)
    else:
        for net in UPDATES:
            qs = []
            for seed in range(a.first, a.first+a.seeds):
                qs.append(once(train, test, net, seed)[1])
                print(row(f'{net}, seed {seed}', qs[-1]), flush=True)
            results[net] = qs
            print(row(f'{net}, mean', {k: st.mean(q[k] for q in qs) for k in qs[0]}))
            if len(qs)>1: print(row(f'{net}, largest - smallest', {k: max(q[k] for q in qs)-min(q[k] for q in qs) for k in qs[0]}), flush=True)
            print(f'\n{net}: {sum(q["diverged"] for q in qs):.0f} of {len(qs)} diverged\n', flush=True)
    if a.out:
        with atomic(a.out) as tmp: Path(tmp).write_text(json.dumps(results, indent=1))

if __name__=='__main__': main()
