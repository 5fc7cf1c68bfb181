"""Jets and muons per core-second: `python bench/generators.py [n]`, one process, start of Pythia not counted (it takes 0.4 to 0.9 s a worker)."""
import sys, time
from hepebm.data import generators as g

def rate(make):
    "Rows per second of CPU, after a first chunk that starts Pythia"
    make(0)
    t, n, k = time.process_time(), 0, 1
    while n < N:
        n += len(make(k)['mask'])
        k += 1
    return n/(time.process_time()-t)

if __name__=='__main__':
    N = int(sys.argv[1]) if len(sys.argv)>1 else 200
    print('versions', g.versions())
    for p in g.PROCESSES:
        old = p in g.CLASSES
        kw = dict(process=p, seed=11, pt=(500.,1000.) if old else (550.,650.), R=.8 if old else 1., particles=128, artefact=False)
        print(f'{p:>8} {rate(lambda k: g._jet_chunk(chunk=k, **kw)):6.1f} jets per core-second', flush=True)
    for m in g.MUONS:
        kw = dict(kind=m, seed=11, pt_min=float(g._muon_kinds[m][1]), pileup=0, pairs=g._muon_kinds[m][2], mass=None, cands=128, cache=True)
        print(f'{m:>8} {rate(lambda k: g._muon_chunk(chunk=k, **kw)):6.1f} muon events per core-second', flush=True)
