"""Epochs a second on 100,000 jets: `fit`, which slices, against a loop over a DataLoader that fetches jet by jet: `python bench/vae.py [--rounds N] [--size N] [--workers N ...] [--quick]`

Same autoencoder (published sizes), same loss, same Adam, same batches; one thread, in turn, in one run, after a round that does not count; the loop is the one a tutorial shows, without workers and with two. CPU time is that of the process and of its workers.
"""
import argparse, os, platform, resource
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, adam, fit
from hepebm.data.samples import sample
from hepebm.vae.vae import JetVAE, elbo

class Jets(Dataset):
    "A jet at a time, as a dict"
    def __init__(self, rows): self.rows = rows
    def __len__(self): return len(self.rows)
    def __getitem__(self, i): return {k: v[i] for k,v in self.rows.items()}

def make(a):
    train = sample('jets', 'train')
    train = train[train.label==0]
    torch.manual_seed(0)
    vae = JetVAE().fit(train)
    rows = vae.inputs(train)
    i = torch.randint(len(rows), (2000 if a.quick else 100_000,))
    return vae, Arrays(**{k: rows[k][i] for k in ('x','mask','mass')})

def plain_epoch(vae, rows, size, workers):
    "As one would write it"
    o, opt = elbo(.1), torch.optim.Adam(vae.parameters(), 1e-3)
    for batch in DataLoader(Jets(rows), size, shuffle=True, num_workers=workers):
        loss = sum(v for k,v in o(vae, batch).items() if k[0]!='_')
        opt.zero_grad(); loss.backward(); opt.step()

def spent():
    "CPU seconds of this process and of those that it has waited for"
    return sum(r.ru_utime+r.ru_stime for r in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=9); p.add_argument('--size', type=int, default=100); p.add_argument('--workers', type=int, nargs='+', default=[0,2]); p.add_argument('--quick', action='store_true')
    a = p.parse_args()
    torch.set_num_threads(1)
    vae, rows = make(a)
    ways = {'fit, slices': lambda: fit(Task(vae, elbo(.1), adam(1e-3)), rows, epochs=1, size=a.size, bar=None)}
    for n in a.workers: ways[f'DataLoader, jet by jet, {n} workers'] = lambda n=n: plain_epoch(vae, rows, a.size, n)
    for f in ways.values(): f()
    t = {k: [] for k in ways}
    for _ in range(a.rounds):
        for k,f in ways.items(): s = spent(); f(); t[k].append(spent()-s)
    print(f'torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread, {a.rounds} rounds, {len(rows):,} jets, batches of {a.size}\n\n| | CPU s an epoch | ratio |\n|---|---|---|')
    plain = np.array([*t.values()][1])
    for k,v in t.items():
        r = np.quantile(plain/v, (.16,.5,.84))
        print(f'| {k} | {np.median(v):.2f} | {r[1]:.2f} [{r[0]:.2f}, {r[2]:.2f}] |')

if __name__=='__main__': main()
