"Toys against the published generators of their samples, written out in numpy, and against their own density."
import math
import numpy as np, pytest, torch
from hepebm.data.toys import grid, toys

fine = {'grid25': 1000, 'funnel': 1600}  # narrow modes, narrow neck; the other toys need fewer cells

def spirals(rng, n):
    a = np.sqrt(rng.random((n//2,1)))*540*2*np.pi/360
    arm = np.hstack([-np.cos(a)*a + rng.random((n//2,1))*.5, np.sin(a)*a + rng.random((n//2,1))*.5])
    return np.vstack([arm, -arm])/3 + rng.normal(size=(n,2))*.1

def checkerboard(rng, n):
    x = rng.random(n)*4 - 2
    return np.stack([x, rng.random(n) - rng.integers(0, 2, n)*2 + np.floor(x)%2], 1)*2

def rings(rng, n):
    r,a = rng.choice([.25,.5,.75,1.], n)*3, rng.random(n)*2*np.pi
    return np.stack([r*np.cos(a), r*np.sin(a)], 1) + rng.normal(size=(n,2))*.08

def squares(rng, n): return rng.choice([-2,2], (n,2)) + rng.random((n,2)) - .5 + rng.normal(size=(n,2))*.1

def moons(rng, n):
    from sklearn.datasets import make_moons
    return make_moons(n, noise=.1, random_state=int(rng.integers(2**31)))[0]*2 + [-1,-.2]

def roll(rng, n):
    from sklearn.datasets import make_swiss_roll
    return make_swiss_roll(n, noise=1., random_state=int(rng.integers(2**31)))[0][:,[0,2]]/5

published = {'2spirals': spirals, 'checkerboard': checkerboard, 'rings': rings, '4squares': squares, 'moons': moons, 'swissroll': roll}

def chi2(name, x, bins=40):
    "chi² per bin of a histogram against the density's integral over the bins, and its standard deviation"
    d = toys[name]
    p,area = grid(d.box, fine.get(name, 320))
    p = d.log_prob(p).exp()*area
    k = len(p)//bins
    expected = len(x)*p.reshape(bins,k,bins,k).sum((1,3)).numpy()
    seen = np.histogram2d(x[:,1], x[:,0], bins=bins, range=d.box[::-1])[0]
    full = expected>5
    return ((seen-expected)[full]**2/expected[full]).mean(), math.sqrt(2/full.sum())

@pytest.mark.long
@pytest.mark.parametrize('name', published)
def test_published_generator(name):
    value,sd = chi2(name, published[name](np.random.default_rng(0), 200_000))
    assert abs(value-1) < 5*sd + .02

@pytest.mark.long
@pytest.mark.parametrize('name', toys)
def test_samples_follow_density(name):
    value,sd = chi2(name, toys[name].sample(400_000, seed=1).double().numpy())
    assert abs(value-1) < 5*sd + .04

@pytest.mark.parametrize('name', ['8gaussians','checkerboard','rings','pinwheel','banana'])
def test_derivative(name):
    "The gradient against finite differences, where the density is smooth"
    x = toys[name].sample(20, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(toys[name].log_prob, x, eps=1e-7, atol=1e-4)

@pytest.mark.parametrize('name', toys)
def test_dtype_seed_shape(name):
    d = toys[name]
    x = d.sample(100, seed=3)
    assert x.shape==(100,2) and x.dtype==torch.get_default_dtype() and torch.equal(x, d.sample(100, seed=torch.Generator().manual_seed(3)))
    a,b = d.log_prob(x),d.log_prob(x.double())
    assert a.dtype==torch.float32 and b.dtype==torch.float64 and ((a-b).abs() < 2e-4*(1+b.abs())).all()
    assert torch.equal(d.log_prob(x.reshape(4,25,2)).flatten(), a) and d.log_prob(x[:0]).shape==(0,)
