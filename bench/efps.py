"""Time of EFPs on one core against EnergyFlow's batch_compute, in turn, by CPU time; and of the bank of 2306.15737 on many cones: `python bench/efps.py [--rounds N] [--cones N] [--jobs N] [--device cuda] [--quick]`

The bank has 467 prime graphs at 36 pairs of powers, 16,812 numbers a cone, on the shipped muons, repeated as often as it takes; `jobs` processes of one thread each. With a GPU that bank alone is measured, on it and on one core of its machine, without EnergyFlow.
"""
import argparse, os, platform, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from importlib.metadata import version
import numpy as np, torch
from hepebm.core.arrays import concat
from hepebm.data.samples import sample
from hepebm.nn.efps import BETAS, KAPPAS, efp_bank, efps, graphs

torch.set_num_threads(1)

def cpu(f):
    t = time.process_time()
    f()
    return time.process_time()-t

def case(energyflow, d, low, high, n, theirs_n, beta=1., dtype=torch.float64, rounds=9):
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

def part(cands, mask, dtype, size=500):
    "CPU seconds for the bank of these cones, a batch at a time, after the plan is made"
    torch.set_num_threads(1)
    G, x = graphs(7, 7, 1), cands.to(dtype)
    efp_bank(x[:2,:,0], x[:2,:,1:3], mask[:2], G)
    return cpu(lambda: [efp_bank(x[i:i+size,:,0], x[i:i+size,:,1:3], mask[i:i+size], G).sum() for i in range(0, len(x), size)])

def muons(cones):
    a = concat([sample('muons', s) for s in ('train','valid','test')])
    i = torch.arange(cones)%len(a)
    return a.cands[i][...,:3].contiguous(), a.mask[i]

def bank_gpu(cones, dtype, rounds, few=200):
    "Cones a second on a GPU and on one core beside it, in turn, and how far the numbers differ"
    G, (cands, mask) = graphs(7, 7, 1), muons(cones)
    def values(device, n): return efp_bank(*(v.to(device) for v in (cands[:n,:,0].to(dtype), cands[:n,:,1:3].to(dtype), mask[:n])), G)
    def clock(f):
        torch.cuda.synchronize(); t = time.perf_counter(); f(); torch.cuda.synchronize()
        return time.perf_counter()-t
    here, there = values('cuda', few).cpu(), values('cpu', few)
    torch.cuda.reset_peak_memory_stats()
    both = np.array([(few/clock(lambda: values('cpu', few)), cones/clock(lambda: [efp_bank(x[:,:,0], x[:,:,1:], m, G).sum() for x,m in zip(cands.to('cuda', dtype).split(2000), mask.to('cuda').split(2000))])) for _ in range(rounds)])
    lo,mid,hi = np.quantile(both[:,1]/both[:,0], (.16,.5,.84))
    print(f'bank of {467*36:,}, {str(dtype)[6:]}: {np.median(both[:,0]):,.0f} cones a second on one core, {np.median(both[:,1]):,.0f} on the GPU, ratio {mid:.0f} [{lo:.0f}, {hi:.0f}]; at most {torch.cuda.max_memory_allocated()/2**30:.1f} GiB; largest relative difference {((here-there).abs()/there.abs().clamp(min=torch.finfo(dtype).tiny)).max():.0e}', flush=True)

def bank(cones, jobs, dtype, published=1_078_726):
    "Cones a second with `jobs` processes, and one against EnergyFlow for some"
    from joblib import Parallel, delayed
    cands, mask = muons(cones)
    with Parallel(jobs) as pool:
        pool(delayed(part)(cands[:2], mask[:2], dtype) for _ in range(jobs))
        t = time.perf_counter()
        used = sum(pool(delayed(part)(cands[k::jobs], mask[k::jobs], dtype) for k in range(jobs)))
        t = time.perf_counter()-t
    print(f'bank of {467*36:,}, {mask.sum(1).float().mean():.1f} particles on average, {str(dtype)[6:]}: {cones:,} cones in {t:.0f} s on {jobs} shared cores ({cones/used:.0f} a CPU second and core); {published:,} would take {published*t/cones/3600:.1f} h, or {published*used/cones/jobs/3600:.1f} h were the cores free', flush=True)

def bank_theirs(energyflow, n=2):
    "The same with EnergyFlow, which needs a set for each pair: one pair timed, and one of ours"
    a = sample('muons', 'train')[:n]
    events = [a.cands[i][a.mask[i]][:,:3].numpy().astype(float) for i in range(n)]
    s = energyflow.EFPSet(('d<=',7), ('n<=',7), ('p<=',1), measure='hadr', kappa=.5, beta=.25, coords='ptyphim')
    ref = s.batch_compute(events, n_jobs=1)
    ours = efp_bank(a.cands[...,0].double(), a.cands[...,1:3].double(), a.mask, graphs(7, 7, 1))[:,KAPPAS.index(.5),BETAS.index(.25)].numpy()
    t = cpu(lambda: s.batch_compute(events, n_jobs=1))/n*36
    print(f'EnergyFlow, the same bank: {t:.1f} CPU seconds a cone (36 times one pair, {n} cones), largest relative difference {np.abs(ours/ref-1).max():.0e}', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--cones', type=int, default=20_000); p.add_argument('--jobs', type=int, default=2); p.add_argument('--device', default='cpu'); p.add_argument('--quick', action='store_true')
    a = p.parse_args()
    if a.quick: a.rounds, a.cones = 2, 200
    if a.device!='cpu':
        print(f'torch {torch.__version__}, {torch.cuda.get_device_name()}, {a.rounds} rounds in turn')
        for dtype in (torch.float32, torch.float64): bank_gpu(a.cones, dtype, a.rounds)
        return
    import energyflow
    print(f'energyflow {version("energyflow")}, torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.processor() or platform.machine()}')
    case(energyflow, 5, 30, 30, 2000, 30, rounds=a.rounds)
    case(energyflow, 5, 30, 30, 2000, 30, dtype=torch.float32, rounds=a.rounds)
    case(energyflow, 5, 2, 30, 2000, 60, beta=.25, rounds=a.rounds)
    case(energyflow, 7, 16, 16, 1000, 6, rounds=a.rounds)
    bank_theirs(energyflow)
    for dtype in (torch.float32, torch.float64): bank(a.cones, a.jobs, dtype)

if __name__=='__main__': main()
