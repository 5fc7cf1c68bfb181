"""Jets and muons per core-second: `python bench/generators.py [n]`, one process, start of Pythia not counted (it takes 0.4 to 0.9 s a worker).
`python bench/generators.py physics [n]`: constituents, masses and modes of the soft-drop mass of the ten classes, without and with the artefact of the JetClass card."""
import sys, time
from pathlib import Path
import numpy as np
from hepebm.data import generators as g
sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from test_generators import peak

def rate(make):
    "Rows per second of CPU, after a first chunk that starts Pythia"
    make(0)
    t, n, k = time.process_time(), 0, 1
    while n < N:
        n += len(make(k)['mask'])
        k += 1
    return n/(time.process_time()-t)

def mode(x):
    "Centre of the soft-drop peak, and its bootstrap deviation"
    rng = np.random.default_rng(0)
    return peak(x), np.std([peak(rng.choice(x, len(x))) for _ in range(20)])

def physics(n):
    print(f'{g.versions()}, {n} jets a class, 500 < pT < 1000 GeV, R = 0.8')
    print('| class | n | median mass [GeV] | soft-drop mode [GeV] | n, artefact | mass, artefact | mode, artefact |\n|---|---|---|---|---|---|---|')
    for p in g.CLASSES:
        cells = []
        for artefact in (False, True):
            a = g.jets(p, n, seed=100, artefact=artefact, cache=False)
            cells += [f'{a.jet_n.double().mean():.1f}', f'{a.jet_mass.median():.1f}', '{:.1f} ± {:.1f}'.format(*mode(a.jet_sdmass.double().numpy()))]
        print(f'| {p} | '+' | '.join(cells)+' |', flush=True)

def chunk(process, c, detector, seed=5, pt=(500.,1000.), R=.8):
    "Soft-drop masses of one chunk, of true particles or of detected ones"
    a,b = g._seeds(seed, process, c)
    raw = g.collide(g._settings(process, pt, c%2), g.EVENTS, a)
    p = g.visible(raw)
    if detector: p = g.detect(p, np.random.default_rng(int(b)))
    order = np.argsort(p.event, kind='stable')
    p4 = g._p4(p)[order]
    event,size,idx = g._jets_of(p4, np.bincount(p.event, minlength=raw.n), R, 'antikt', pt[0])
    jet = np.add.reduceat(p4[idx], np.cumsum(size)-size)
    ptj = np.hypot(jet[:,1], jet[:,2])
    eta,phi = np.arcsinh(jet[:,3]/ptj), np.arctan2(jet[:,2], jet[:,1])
    _,target,prongs = g._processes[process]
    ok = (ptj<=pt[1]) & (np.abs(eta)<2) & g._matched(event, eta, phi, g.partons(raw, target), prongs, R)
    return g.substructure(p4[idx[np.repeat(ok, size)]], size[ok], R)[0]

def particles(chunks=25):
    for p in ('Tbqq', 'Wqq'):
        for detector in (False, True):
            m = np.concatenate([chunk(p, c, detector) for c in range(chunks)])
            print(f'{p}, {"detected" if detector else "true particles"}, {len(m)} jets: '+'{:.1f} ± {:.1f}'.format(*mode(m)), flush=True)

if __name__=='__main__' and sys.argv[1:2]==['particles']: particles()
elif __name__=='__main__' and sys.argv[1:2]==['physics']: physics(int((sys.argv[2:] or [3000])[0]))
elif __name__=='__main__':
    N = int(sys.argv[1]) if len(sys.argv)>1 else 200
    print('versions', g.versions())
    for p in g.PROCESSES:
        old = p in g.CLASSES
        kw = dict(process=p, seed=11, pt=(500.,1000.) if old else (550.,650.), R=.8 if old else 1., particles=128, artefact=False)
        print(f'{p:>8} {rate(lambda k: g._jet_chunk(chunk=k, **kw)):6.1f} jets per core-second', flush=True)
    for m in g.MUONS:
        kw = dict(kind=m, seed=11, pt_min=float(g._muon_kinds[m][1]), pileup=0, pairs=g._muon_kinds[m][2], mass=None, cands=128, cache=True)
        print(f'{m:>8} {rate(lambda k: g._muon_chunk(chunk=k, **kw)):6.1f} muon events per core-second', flush=True)
