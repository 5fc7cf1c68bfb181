"Time of EFPs on one core against EnergyFlow's batch_compute, in turn, by CPU time: `python bench/efps.py [rounds]`"
import os, platform, sys, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from importlib.metadata import version
import energyflow, numpy as np, torch
from hepebm.nn.efps import efps, graphs

torch.set_num_threads(1)

def cpu(f):
    t = time.process_time()
    f()
    return time.process_time()-t

def case(d, low, high, n, theirs_n, beta=1., dtype=torch.float64, rounds=9):
    "Ratio of times per jet: median, 16 and 84 %"
    g = torch.Generator().manual_seed(0)
    count = torch.randint(low, high+1, (n,), generator=g)
    pt,x = torch.rand(n, high, generator=g, dtype=dtype),torch.rand(n, high, 2, generator=g, dtype=dtype)
    mask = torch.arange(high)<count[:,None]
    theirs = energyflow.EFPSet(('d<=',d), measure='hadr', beta=beta, coords='ptyphim')
    events = [np.c_[pt[i,:count[i]],x[i,:count[i]]].astype(float) for i in range(theirs_n)]
    G = graphs(d)
    ref = theirs.batch_compute(events, n_jobs=1)
    error = (np.abs(efps(pt[:theirs_n], x[:theirs_n], mask[:theirs_n], G, beta=beta).numpy()-ref)/np.where(ref>0, ref, 1)).max()
    both = np.array([(cpu(lambda: theirs.batch_compute(events, n_jobs=1))/theirs_n, cpu(lambda: efps(pt, x, mask, G, beta=beta))/n) for _ in range(rounds)])
    lo,mid,hi = np.quantile(both[:,0]/both[:,1], (.16,.5,.84))
    a,b = 1/np.median(both, 0)
    print(f'd<={d} {len(G):>5} EFPs, {low}-{high} particles, beta {beta}, {str(dtype)[6:]}: {a:7.0f} and {b:7.0f} jets/s, ratio {mid:.0f} [{lo:.0f}, {hi:.0f}], largest relative difference {error:.0e}', flush=True)

if __name__=='__main__':
    rounds = int(sys.argv[1]) if len(sys.argv)>1 else 9
    print(f'energyflow {version("energyflow")}, torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.processor() or platform.machine()}')
    case(5, 30, 30, 2000, 30, rounds=rounds)
    case(5, 30, 30, 2000, 30, dtype=torch.float32, rounds=rounds)
    case(5, 2, 30, 2000, 60, beta=.25, rounds=rounds)
    case(7, 16, 16, 1000, 6, rounds=rounds)
