"""Make the samples that are shipped in hepebm/samples: `python tools/make_samples.py [jets] [muons] [--jobs 2]`

Needs the extra `gen` in the versions below; about 8 core-minutes for the jets and as much for the muons. What was made is kept in the cache
(HEPEBM_CACHE), so a second run only packs it."""
import argparse, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hepebm.core.arrays import concat
from hepebm.data import generators as g, samples as s

PINNED = dict(pythia8mc='8.317.2', fastjet='3.5.2.0')
SEEDS = dict(train=1, valid=2, test=3)
JETS = dict(QCD='dijet', top='Zprime', W='Wprime', H='heavyH')
NUMBERS = dict(train=(8000,1000), valid=(1000,200), test=(3000,800))
out = Path(__file__).resolve().parent.parent/'hepebm'/'samples'

def polar(p4): return np.hypot(p4[...,1], p4[...,2]), np.arcsinh(p4[...,3]/np.hypot(p4[...,1], p4[...,2])), np.arctan2(p4[...,2], p4[...,1])
def wrap(x): return (x+np.pi)%(2*np.pi)-np.pi
def mixed(parts, labels, seed):
    "All parts in one random order, with their labels"
    a = concat(p.assign(label=p.label*0+l) for p,l in zip(parts, labels))
    return a[np.random.default_rng(seed).permutation(len(a))]

def pack_jets(a, particles=64):
    mask = a.mask.numpy()[:,:particles]
    take = lambda k: a[k].numpy()[:,:particles][mask]
    pt,eta,phi = polar(take('p4').astype(float))
    row = np.nonzero(mask)[0]
    cols = dict(pt=pt, deta=eta-a.jet_eta.numpy()[row], dphi=wrap(phi-a.jet_phi.numpy()[row])) | {k: take(k) for k in 'pid charge d0 dz d0err dzerr'.split()}
    event = {k: a[k].numpy() for k in 'jet_pt jet_eta jet_phi jet_mass jet_sdmass'.split()}
    return s.pack(cols, mask.sum(1), event | dict(jet_n=a.jet_n.numpy().astype(np.uint8), label=a.label.numpy().astype(np.uint8)))

def jets(jobs):
    kw = dict(pt=(550,650), R=1.)
    splits = {k: pack_jets(mixed([g.jets(p, NUMBERS[k][i>0], seed=seed, jobs=jobs, **kw) for i,p in enumerate(JETS.values())], range(4), seed)) for k,seed in SEEDS.items()}
    s.write_sample(out/'jets.npz', splits, dict(made_by='tools/make_samples.py', versions=g.versions(), seeds=SEEDS, processes=JETS, particles=64, artefact=False, **kw,
                   settings={k: g._settings(p, kw['pt']) for k,p in JETS.items()}))

def muons(jobs):
    kw = dict(pileup=20, mass=(70,110))
    numbers = dict(train=(4200,1800), valid=(700,300), test=(2100,900))
    def made(split):
        z,b = numbers[split]
        return mixed([g.muons('bb', b, seed=SEEDS[split], pairs=True, jobs=jobs, **kw), g.muons('Z', z, seed=SEEDS[split], jobs=jobs, **kw)], (0,1), SEEDS[split])
    def packed(a, particles=64):
        mask = a.mask.numpy()[:,:particles]
        cols = {k: a.cands.numpy()[:,:particles,i][mask] for i,k in enumerate(a.features)}
        event = {k: a[k].numpy() for k in 'pt eta phi d0 dz mass'.split()} | {k: a[k].numpy().astype(np.int8) for k in ('charge','label')}
        return s.pack(cols | {k: cols[k].astype(int) for k in ('charge','pid')}, mask.sum(1), event)
    s.write_sample(out/'muons.npz', {k: packed(made(k)) for k in SEEDS}, dict(made_by='tools/make_samples.py', versions=g.versions(), seeds=SEEDS, numbers=numbers, particles=64, **kw,
                   settings=dict(Z=g._muon_settings('Z', 25), bb=g._muon_settings('bb', 25, True))))

if __name__=='__main__':
    a = argparse.ArgumentParser()
    a.add_argument('what', nargs='*', default=['jets','muons'])
    a.add_argument('--jobs', type=int, default=2)
    a = a.parse_args()
    if wrong := {k: v for k,v in PINNED.items() if g.versions()[k]!=v}: sys.exit(f'the shipped samples are made with {PINNED}; found other versions of {list(wrong)}')
    for w in a.what:
        globals()[w](a.jobs)
        print(w, (out/f'{w}.npz').stat().st_size, 'bytes')
