"""Time to train members of an ensemble together against one after the other, in turn: `python bench/ensembles.py [--rounds N] [--members N] [--device cuda] [--width N] [--quick]`

Networks with three hidden layers on 11 inputs, batches of 256, Adam, own bootstrap and own order for each member; the same results, which is checked. The loop is the one a tutorial shows: a module, autograd, `torch.optim.Adam`.
On a CPU one thread and CPU time; utilisation is the floating point operations of the layers (forward, and back to weights and inputs) over what a large matrix product reaches on the same core in the same round.
"""
import argparse, os, platform, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from hepebm.core.arrays import Arrays
from hepebm.core.training import generator
from hepebm.nn.ensembles import _Splits, fit_ensemble
from hepebm.nn.sets import mlp

SIZE, INPUTS = 256, 11

def data(rows, device):
    g = torch.Generator().manual_seed(0)
    label = torch.arange(rows)%2
    return Arrays(x=torch.randn(rows, INPUTS, generator=g)+.3*label[:,None], label=label).to(device)

def one_after_the_other(make, a, n, epochs):
    "As one would write it; the random streams are the ensemble's"
    splits, nets = _Splits(a.label.cpu(), [torch.arange(len(a))]*n, 0., True, 0), []
    for i in range(n):
        torch.manual_seed(generator(0, name=f'start {i}').initial_seed())
        net, rows = make().to(a.x), splits[i][0]
        opt = torch.optim.Adam(net.parameters(), 1e-3)
        for e in range(epochs):
            for j in rows[torch.randperm(len(rows), generator=generator(0, name=f'order {i} {e}'))].to(a.device).split(SIZE):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(net(a.x[j])[:,0], a.label[j].to(a.x))
                opt.zero_grad(); loss.backward(); opt.step()
        nets.append(net)
    return nets

def seconds(f, device):
    "CPU seconds of `f`; on a GPU those of the clock"
    clock, wait = (time.process_time, lambda: None) if device=='cpu' else (time.perf_counter, torch.cuda.synchronize)
    wait(); t = clock(); out = f(); wait()
    return clock()-t, out

def peak(device):
    "Floating point operations a second of a large product"
    m = 768 if device=='cpu' else 8192
    x = torch.randn(m, m, device=device)
    return 2*m**3*8/seconds(lambda: [x@x for _ in range(8)], device)[0]

@torch.no_grad()
def apart(nets, ens, x): return float((ens(x)-torch.stack([m(x)[:,0] for m in nets])).abs().max())

def case(width, act, rows, epochs, a):
    make, d = (lambda: mlp(INPUTS, width, width, width, 1, act=act)), data(rows, a.device)
    flops = a.members*epochs*rows*(6*(INPUTS*width+2*width**2+width)-2*INPUTS*width)
    t, top, off = [], [], 0.
    exact = apart(one_after_the_other(make, d.to(torch.float64), a.members, epochs), fit_ensemble(make, d.to(torch.float64), a.members, epochs=epochs, size=SIZE), d.x.double())
    for _ in range(a.rounds):
        loop, nets = seconds(lambda: one_after_the_other(make, d, a.members, epochs), a.device)
        here, ens = seconds(lambda: fit_ensemble(make, d, a.members, epochs=epochs, size=SIZE), a.device)
        t.append((loop, here)); top.append(peak(a.device))
        off = max(off, apart(nets, ens, d.x))
    loop, here = np.array(t).T
    lo,mid,hi = np.quantile(loop/here, (.16,.5,.84))
    steps, used = epochs*rows//SIZE*a.members, flops/np.array(top)
    print(f'| {width} | {act} | {1e3*np.median(loop)/steps:.3f} | {1e3*np.median(here)/steps:.3f} | {mid:.1f} [{lo:.1f}, {hi:.1f}] | {np.median(used/loop):.0%} | {np.median(used/here):.0%} | {off:.0e} | {exact:.0e} |', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--members', type=int, default=20); p.add_argument('--device', default='cpu'); p.add_argument('--width', type=int, help='this one alone'); p.add_argument('--quick', action='store_true')
    a = p.parse_args()
    if a.quick: a.rounds, a.members = 2, 4
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if a.device!='cpu' else f'{platform.processor() or platform.machine()}, one thread'
    print(f'torch {torch.__version__}, Python {platform.python_version()}, {name}, {a.members} members, {a.rounds} rounds in turn\n\n| width | activation | ms a step and member, one after the other | together | ratio | utilisation, one after the other | together | largest difference, single precision | double |\n|---|---|---|---|---|---|---|---|---|')
    for width,epochs in ((16,20), (64,5), (256,1)) if a.device=='cpu' else ((16,10), (64,10), (256,10)):
        if a.width not in (None, width): continue
        for act in ('LeakyReLU','SiLU'): case(width, act, 4*SIZE if a.quick else 10*SIZE, epochs, a)

if __name__=='__main__': main()
