"Quantisers against brute force, other formulas, and themselves: in pieces, resumed, in several processes"
import math, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, Watch, adam, fit, load_model, record, save_model
from hepebm.tokens.quantizers import FSQ, Bins, VectorQuantizer, check_quantizer, kmeans, nearest, usage

root = Path(__file__).resolve().parent.parent
gen = lambda s: torch.Generator().manual_seed(s)

def particles(n=24, p=9, d=3, seed=0):
    g = gen(seed)
    return torch.randn(n, p, d, generator=g), torch.arange(p) < torch.randint(0, p+1, (n,1), generator=g)

def brute(z, codes): return (z.double()[:,None]-codes.double()).square().sum(-1).argmin(1)

# ---- search

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('d,k', [(1,7), (2,1), (3,1000), (16,333)])
def test_nearest(dtype, d, k):
    "In pieces of any size, at any offset (where a plain product of matrices cancels), for repeated codes"
    for offset in (0., 300.):
        z, c = ((torch.randn(n, d, generator=gen(n))+offset).to(dtype) for n in (401,k))
        ids = nearest(z, c)
        assert torch.equal(ids, brute(z, c))
        for size in (1, k, 3*k+1, 10**7): assert torch.equal(nearest(z, c, size), ids)
        assert torch.equal(nearest(z, torch.cat([c, c.flip(0)])), ids)
        assert torch.equal(nearest(z[5:6], c), ids[5:6])
    assert nearest(z[:0], c).shape==(0,)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_nearest_between_two(dtype):
    "Latents that rounding puts half way between their two nearest codes"
    c = torch.randn(500, 3, generator=gen(0), dtype=dtype)
    i = torch.cdist(c, c).topk(2, largest=False).indices[:,1]
    z = (c+c[i])/2
    ids = nearest(z, c)
    for size in (1, 500, 1777): assert torch.equal(nearest(z, c, size), ids)
    assert torch.equal(ids, brute(z, c))

def test_nearest_on_a_lattice():
    "Exact ties everywhere: the lowest number"
    u = torch.arange(5.)
    c = torch.cartesian_prod(u, u, u)
    z = torch.cartesian_prod(u[:-1]+.5, u[:-1]+.5, u)
    assert torch.equal(nearest(z, c), brute(z, c))
    assert torch.equal(nearest(z.double(), c.double(), 7), brute(z, c))

@pytest.mark.parametrize('precision', ['highest','high','medium'])
def test_nearest_whatever_the_precision(precision):
    "Neither autocast nor a setting that lets products be rounded changes a code"
    z, c = torch.randn(600, 64, generator=gen(0)), torch.randn(600, 64, generator=gen(1))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast('cpu', dtype=torch.bfloat16): ids = nearest(z, c)
    finally: torch.set_float32_matmul_precision(before)
    assert torch.equal(ids, torch.cat([brute(v, c) for v in z.split(100)]))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_nearest_on_a_gpu():
    z, c = torch.randn(20000, 4, generator=gen(0)), torch.randn(8192, 4, generator=gen(1))
    assert torch.equal(nearest(z.cuda(), c.cuda()).cpu(), nearest(z, c))

# ---- the way back

@pytest.mark.parametrize('levels', [(3,), (4,), (8,6,5), (7,5,5,5,5), (8,8,8,5,5)])
def test_fsq_is_one_to_one(levels):
    q = FSQ(levels)
    ids = torch.arange(q.codes)
    points = q.decode(ids)
    assert len(points.unique(dim=0))==q.codes==math.prod(levels)
    assert points.min()>=-1 and points.max()<=1 and all(len(c.unique())==l for c,l in zip(points.T, levels))
    z = torch.tanh(torch.randn(5000, len(levels), generator=gen(0), dtype=torch.float64))*5
    l = np.array(levels)
    h, o = (l-1)*(1-1e-3)/2, np.where(l%2, 0., .5)
    r = np.round(np.tanh(z.numpy()+np.arctanh(o/h))*h-o)  # the paper's, in numpy
    out = q(z)
    np.testing.assert_array_equal(out.quantized.numpy(), r/(l//2))
    np.testing.assert_array_equal(out.indices.numpy(), ((r+l//2)*np.cumprod([1, *l[:-1]])).sum(1))
    assert len(q(8*torch.randn(10**5, len(levels), generator=gen(1))).indices.unique()) > .5*min(q.codes, 3**len(levels))

def test_bins_as_numpy():
    x, mask = particles(50, 20)
    q = Bins.fit(x, mask, (5,3,8), ['quantile','uniform',(-1.,1.)])
    digits = [np.clip(np.digitize(v, e)-1, 0, len(e)-2) for v,e in zip(x[mask].double().T.numpy(), q.settings['edges'])]
    assert q(x, mask).indices[mask].tolist() == np.ravel_multi_index(digits[::-1], (8,3,5)).tolist()
    assert torch.equal(q(q.decode(torch.arange(q.codes))).indices, torch.arange(q.codes))
    for value,f in (('mean', np.mean), ('median', np.median)):
        got = Bins.fit(x, mask, (5,3,8), value=value)(x, mask).quantized[mask][:,0]
        first = Bins.fit(x, mask, (5,3,8)).decode
        ids = Bins.fit(x[...,:1], mask, (5,)) (x[...,:1], mask).indices[mask]
        for i in range(5): np.testing.assert_allclose(got[ids==i], f(x[mask][ids==i,0].double().numpy()), rtol=1e-6)

def test_bins_refuse():
    x, mask = particles()
    with pytest.raises(ValueError, match='no particle'): Bins.fit(x, mask&False)
    with pytest.raises(ValueError, match='NaN'): Bins.fit(torch.where(mask[...,None], x, 0)/0)
    with pytest.raises(ValueError, match='one for each feature'): Bins.fit(x, mask, (4,4))
    with pytest.raises(ValueError, match='a kind is'): Bins.fit(x, mask, kinds='log')

every = {'bins': lambda d: Bins([[-1,0,1,2]]*d), 'fsq': lambda d: FSQ((5,)*d), 'ema': lambda d: VectorQuantizer(d, 40), 'gradient': lambda d: VectorQuantizer(d, 40, 'gradient')}

@pytest.mark.parametrize('make', every.values(), ids=every)
def test_errors_and_shapes(make):
    q = make(3)
    x, mask = particles()
    for bad in (q.codes, -2):
        with pytest.raises(ValueError, match=f'{bad}.*quantiser of {q.codes} codes'): q.decode(torch.tensor([0, bad]))
    with pytest.raises(ValueError, match='integers'): q.decode(torch.zeros(2))
    with pytest.raises(ValueError, match='True on particles'): q(x, mask.float())
    with pytest.raises(ValueError, match='True on particles'): q(x, mask[:,:-1])
    with pytest.raises(ValueError, match='this quantiser is for 3'): q(x[...,:2], mask)
    assert not q.decode(torch.tensor([[-1,-1]])).any() and q.decode(torch.zeros(2, 0).long()).shape==(2,0,3)
    assert q(x).indices.min()>=0 and q(x[0,0]).indices.shape==() and q(x[None], mask[None]).quantized.shape==(1,*x.shape)
    q.eval()
    assert torch.equal(q(x, mask).indices[mask], q(x[mask]).indices)
    assert q(x.double(), mask).quantized.dtype==torch.float64 and q(x.bfloat16(), mask).quantized.dtype==torch.bfloat16

# ---- the contract

variants = dict(plain={}, cosine=dict(cosine=True), gradient=dict(kind='gradient'), gradient_cosine=dict(kind='gradient', cosine=True), published=dict(kind='gradient', nu=1., affine=2., replace=10),
    normal=dict(kmeans=False, replace=1), many=dict(codes=700), forever=dict(replace=None), one=dict(codes=1))

@pytest.mark.parametrize('kw', variants.values(), ids=variants)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_contract(kw, dtype):
    "New, started, and trained on"
    q = VectorQuantizer(3, **{'codes': 50, **kw}).to(dtype)
    for _ in range(3):
        x, mask = particles(seed=q.step)
        check_quantizer(q, x.to(dtype), mask)
        q(x.to(dtype), mask)
    if q.cosine: torch.testing.assert_close(q(x, mask).quantized[mask].norm(dim=1).double(), torch.ones(int(mask.sum())).double(), rtol=1e-5, atol=1e-5)

class Wrong(VectorQuantizer):
    def __init__(self, dim, codes, how): super().__init__(dim, codes); self.how = how
    def forward(self, z, mask=None):
        if self.how=='loss': return (o := super().forward(z, mask))._replace(loss=o.loss+torch.where(mask[...,None], z, 0).square().mean())
        if self.how=='gradient': return (o := super().forward(z, mask))._replace(quantized=o.quantized.detach()+0*torch.where(mask[...,None], z, 0))
        if self.how=='eval': self.count += 1
        if self.how=='empty' and not mask.any(): return (o := super().forward(z, mask))._replace(loss=o.loss/0)
        return super().forward(z, mask)
    def decode(self, i): return super().decode(i)*(1+(self.how=='decode'))

@pytest.mark.parametrize('how,message', dict(loss='more padding changes loss', gradient='no gradient', eval='evaluation changes count', empty='NaN', decode='not what came out').items())
def test_contract_bites(how, message):
    x, mask = particles()
    with pytest.raises(AssertionError, match=message): check_quantizer(record(Wrong)(3, 50, how), x, mask)

# ---- learning

def test_moving_means_are_two_averages():
    "The usual form, averages of counts and of sums, in double precision"
    q = VectorQuantizer(2, 8, decay=.9, kmeans=False, replace=None).double()
    n, s, c = torch.zeros(8).double(), torch.zeros(8, 2).double(), q.codebook.clone()
    for i in range(12):
        z = torch.randn(40, 2, generator=gen(i), dtype=torch.float64)
        ids = q(z).indices
        assert torch.equal(ids, brute(z, c))
        n, s = .9*n+.1*torch.bincount(ids, minlength=8), .9*s+.1*torch.zeros(8,2).double().index_add_(0, ids, z)
        c = torch.where(n[:,None]>0, s/n[:,None].clamp(min=1e-9), c)
        torch.testing.assert_close(q.codebook, c, rtol=2e-3, atol=2e-3)  # the pseudo-count
        c = q.codebook.clone()
    torch.testing.assert_close(q.count, n)

def test_unused_codes_stay():
    q = VectorQuantizer(2, 5, kmeans=False, replace=None)
    q.codebook[:] = torch.tensor([[0,0],[9,9],[9,-9],[-9,9],[-9,-9.]])
    before = q.codebook.clone()
    for i in range(3000): q(torch.randn(10, 2, generator=gen(i)))
    assert torch.equal(q.codebook[1:], before[1:]) and not torch.equal(q.codebook[0], before[0])

def test_published_loss():
    "alpha L and the gradients of arXiv 2403.05618's code, written out; the affine map included"
    z = torch.randn(30, 4, generator=gen(0), dtype=torch.float64, requires_grad=True)
    q = VectorQuantizer(4, 16, 'gradient', beta=.9, nu=1., affine=2., kmeans=False).double()
    with torch.no_grad(): q.scale.copy_(torch.linspace(-.2,.2,4)); q.shift.copy_(torch.linspace(.3,-.1,4))
    out = q(z)
    (out.quantized.sin().sum() + 10*out.loss).backward()
    grads = [z.grad.clone(), *(p.grad.clone() for p in q.parameters())]
    z.grad = None; q.zero_grad()
    c = (1+2*q.scale)*q.codebook + 2*q.shift
    zq = c[torch.cdist(z, c).argmin(1)]
    through = z + (zq-z).detach() + 1.*zq - (1.*zq).detach()
    (through.sin().sum() + 10*(.1*(z-zq.detach()).square().mean() + .9*(z.detach()-zq).square().mean())).backward()
    for a,b in zip(grads, [z.grad, *(p.grad for p in q.parameters())]): torch.testing.assert_close(a, b)

def test_replacement():
    "A code that is idle for `replace` steps goes to a particle at the next, is used there, and never to padding"
    q = VectorQuantizer(2, 6, kmeans=False, replace=4)
    q.codebook[1:] = 100+torch.arange(5.)[:,None]
    for i in range(4):
        x, mask = particles(6, 20, 2, seed=i)
        q(torch.where(mask[...,None], x, -50), mask)
        assert q.idle.tolist()==[0]+[i+1]*5 and (q.codebook[1:]>=100).all()
    x, mask = particles(6, 20, 2, seed=9)
    fixed = q.codebook[0].clone()
    out = q(torch.where(mask[...,None], x, -50), mask)
    assert not q.idle.any() and q.codebook.abs().max() < 10 and usage(out.indices, 6).fraction==1
    assert (torch.cdist(out.quantized[mask], torch.cat([x[mask], fixed[None]])).min(1).values < 1e-5).all()

def test_start_is_of_particles():
    "More codes than particles: every particle is a code; fewer: k-means, not looking at padding; no particle: not yet"
    x, mask = particles(8, 6, 2)
    q = VectorQuantizer(2, 100, replace=None)
    q(x, mask&False)
    assert not q.started
    out = q(torch.where(mask[...,None], x, 77), mask)
    assert q.started and out.loss < 1e-8 and q.codebook.abs().max() < 10
    few, by_hand = VectorQuantizer(2, 5, decay=.5), kmeans(x[mask], 5, 10)
    ids = few(torch.where(mask[...,None], x, 77), mask).indices[mask]
    assert torch.equal(ids, nearest(x[mask], by_hand))
    torch.testing.assert_close(few.codebook, torch.stack([x[mask][ids==k].mean(0) for k in range(5)]), rtol=1e-3, atol=1e-3)

@pytest.mark.parametrize('k', [8, 64])
def test_kmeans_as_scikit_learn(k):
    from sklearn.cluster import KMeans
    x = torch.randn(3000, 3, generator=gen(0))
    error = lambda c: (x-c[nearest(x, c)]).square().sum().item()
    ours, theirs = [error(kmeans(x, k, seed=s)) for s in range(5)], [KMeans(k, n_init=1, random_state=s).fit(x.numpy()).inertia_ for s in range(5)]
    assert np.mean(ours) < 1.02*np.mean(theirs)
    same = KMeans(k, init=kmeans(x, k, 0).numpy(), n_init=1, max_iter=500, tol=0).fit(x.numpy())
    torch.testing.assert_close(kmeans(x, k, 500), torch.tensor(same.cluster_centers_), rtol=1e-3, atol=1e-3)  # from one start to one end

def test_repeated_points():
    "Fewer values than codes, as a detector's grid gives"
    x = torch.tensor([[0.,0],[1,0],[0,1]]).repeat(50, 1)
    c = kmeans(x, 10)
    assert c.isfinite().all() and (x-c[nearest(x, c)]).abs().max() < 1e-6

def test_usage():
    p = torch.rand(30, generator=gen(0)).double()
    i = torch.multinomial(p, 1000, True, generator=gen(1)).view(50, 20)
    n = np.bincount(i.flatten(), minlength=30)/1000
    assert abs(usage(i, 30).perplexity-np.exp(-(n[n>0]*np.log(n[n>0])).sum())) < 1e-9
    mixed = torch.where(torch.rand(50, 20, generator=gen(2))<.5, i, -1)
    assert usage(mixed, 30)==usage(mixed[mixed>=0], 30)
    with pytest.raises(ValueError, match='code'): usage(i, 20)

# ---- training

@record
class Autoencoder(nn.Module):
    def __init__(self, kind='ema', **kw):
        super().__init__()
        self.enc, self.dec, self.q = nn.Linear(3, 2), nn.Linear(2, 3), VectorQuantizer(2, 12, kind, replace=2, **kw)

class Loss:
    def __call__(self, m, b):
        out = m.q(m.enc(b.x), b.mask)
        return dict(q=out.loss, reco=((m.dec(out.quantized)-b.x).square().sum(-1)*b.mask).sum()/len(b.x))

class Stop:
    def __init__(self, after): self.left = after
    def update(self, **frame):
        self.left -= 1
        if not self.left: raise KeyboardInterrupt

@pytest.mark.parametrize('kind', ['ema','gradient'])
def test_resume(kind, tmp_path):
    "Broken off and begun again, also through a saved model, it ends with the same codebook; two trainings agree to the last bit"
    x, mask = particles(60)
    def train(out=None, **kw):
        torch.manual_seed(0)
        m = Autoencoder(kind)
        fit(Task(m, Loss(), adam(1e-2)), Arrays(x=x, mask=mask), epochs=3, size=10, bar=None, checkpoint_every=1, out=out, accelerator='cpu', **kw)
        return m
    whole = train()
    with pytest.raises(KeyboardInterrupt): train(tmp_path/'part', callbacks=[Watch(Stop(8), lambda run: {}, every=1)])
    for again in (train(), train(tmp_path/'part')):
        for (k,a),b in zip(whole.state_dict().items(), again.state_dict().values()): assert torch.equal(a, b) if torch.is_tensor(a) else a==b, k
    save_model(tmp_path/'m', whole)
    m = load_model(tmp_path/'m')
    for a in (whole, m): a.q(10*x[...,:2], mask); a.q(-10*x[...,:2], mask); a.q(10*x[...,:2], mask); a.q(10*x[...,:2], mask)
    assert torch.equal(whole.q.codebook, m.q.codebook) and whole.q.step==m.q.step

# ---- processes

SCRIPT = '''
import os, sys, torch
from torch import distributed, nn
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, fit
from hepebm.tokens.quantizers import VectorQuantizer
how, rank, world, out = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4]
g = torch.Generator().manual_seed(0)
x = torch.randn(120, 7, 3, generator=g, dtype=torch.float64)
x[60:] += 3
mask = torch.arange(7) < torch.randint(0, 8, (120,1), generator=g)
mask[:3] = False

class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec, self.q = nn.Linear(3, 2), nn.Linear(2, 3), VectorQuantizer(2, 12, kind, replace=2)
    def forward(self, x, mask):
        out = self.q(self.enc(x), mask)
        return out.loss + ((self.dec(out.quantized)-x).square().sum(-1)*mask).sum()/len(x)

def plain(m):
    "Unequal shares, one of them without particles at the first step"
    net = nn.parallel.DistributedDataParallel(m) if world>1 else m
    opt = torch.optim.Adam(m.parameters(), 1e-2)
    for i in range(0, 120, 10):
        lo, hi = (i, i+10) if world==1 else ((i, i+3), (i+3, i+10))[rank]
        loss = net(x[lo:hi], mask[lo:hi])*(hi-lo)*world/10
        opt.zero_grad(); loss.backward(); opt.step()

def fitted(m):
    data = Arrays(x=x, mask=mask)
    fit(Task(m, lambda m, b: dict(all=m(b.x, b.mask))), data, data[:20], epochs=3, size=21, bar=None, accelerator='cpu', devices=world, strategy='ddp' if world>1 else 'auto')

if how=='plain' and world>1: distributed.init_process_group('gloo', init_method=f'file://{out}/meet', rank=rank, world_size=world)
for kind in ['ema','gradient'] if how=='plain' else [how]:
    m = Model(kind).double()
    (plain if how=='plain' else fitted)(m)
    torch.save(m.state_dict(), f'{out}/{kind}_{world}_{os.environ.get("LOCAL_RANK", rank)}.pt')
'''

def run(tmp_path, *args):
    (tmp_path/'script.py').write_text(SCRIPT)
    env = dict(os.environ, PYTHONPATH=str(root), IN_TEST='1', OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, 'script.py', *map(str, args), str(tmp_path)], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

def agree(tmp_path, kind):
    one, *two = (torch.load(tmp_path/f'{kind}_{f}.pt', weights_only=True) for f in ('1_0','2_0','2_1'))
    assert one['q._extra_state']['step'] > 3 and one['q._extra_state']['started']
    for k,v in one.items():
        if not torch.is_tensor(v): assert v==two[0][k]==two[1][k]; continue
        assert torch.equal(two[0][k], two[1][k]), k
        torch.testing.assert_close(two[0][k], v, rtol=1e-9, atol=1e-9)

def test_two_processes_are_one(tmp_path, monkeypatch):
    "Start, replacements, means and loss, with unequal numbers of jets and of particles; DDP sends buffers as it does"
    two = [run(tmp_path, 'plain', rank, 2) for rank in (0,1)]
    monkeypatch.setattr(sys, 'argv', ['script.py', 'plain', '0', '1', str(tmp_path)])
    exec(SCRIPT, {})
    for p in two: assert p.wait(120)==0, p.stderr.read()[-3000:]
    for kind in ('ema','gradient'): agree(tmp_path, kind)

@pytest.mark.long
@pytest.mark.parametrize('kind', ['ema','gradient'])
def test_two_processes_under_fit(kind, tmp_path):
    "Batches that two do not divide, and validation between"
    for w in (1,2):
        p = run(tmp_path, kind, 0, w)
        assert p.wait(300)==0, p.stderr.read()[-3000:]
    agree(tmp_path, kind)

def test_as_vector_quantize_pytorch():
    "A peer's codes, on its own codebook"
    peer = pytest.importorskip('vector_quantize_pytorch')
    p = peer.VectorQuantize(dim=4, codebook_size=64).eval()
    z = torch.randn(2, 100, 4, generator=gen(0))
    q = VectorQuantizer(4, 64, kmeans=False).eval()
    q.codebook.copy_(p.codebook)
    assert torch.equal(q(z).indices, p(z)[1])
