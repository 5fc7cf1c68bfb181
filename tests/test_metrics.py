"The metrics against the published libraries: jetnet, dcor, sklearn."
import numpy as np, pytest
from hepebm.core.metrics import auc, distance_corr, fpd, kpd, roc

rng = np.random.default_rng(1)
mix = rng.normal(size=(12,12))/12**.5
real = np.exp(.3*rng.normal(size=(1500,12))@mix)
gen = np.exp(.3*rng.normal(size=(1100,12))@mix+.05)

@pytest.mark.parametrize('normalise', (True, False))
def test_jetnet(normalise):
    "Values and errors of FPD and KPD at the same settings and seed"
    theirs = pytest.importorskip('jetnet.evaluation')
    kw = dict(min_samples=1000, max_samples=4000, num_batches=5, num_points=6, normalise=normalise, seed=7)
    np.testing.assert_allclose(fpd(real, gen, **kw), theirs.fpd(real, gen, **kw), rtol=1e-6)
    kw = dict(num_batches=6, batch_size=500, normalise=normalise, seed=7)
    np.testing.assert_allclose(kpd(real, gen, **kw), theirs.kpd(real, gen, **kw), rtol=1e-7)

@pytest.mark.long
def test_jetnet_defaults():
    theirs = pytest.importorskip('jetnet.evaluation')
    for a,b in ((real, gen), (real[:700], real[700:1400])):
        np.testing.assert_allclose(fpd(a, b), theirs.fpd(a, b), rtol=1e-6)
        np.testing.assert_allclose(kpd(a, b), theirs.kpd(a, b), rtol=1e-7)

@pytest.mark.long
def test_dcor():
    "Both forms, in one and several dimensions, with more rows than a chunk"
    dcor = pytest.importorskip('dcor')
    for n,shape in ((50,()), (300,()), (300,(3,)), (3000,())):
        a = rng.normal(size=(n,*shape))
        b = a**2+rng.normal(size=(n,*shape))
        assert abs(distance_corr(a, b)-dcor.distance_correlation_sqr(a, b)) < 1e-10
        assert abs(distance_corr(a, b, unbiased=True)-dcor.u_distance_correlation_sqr(a, b)) < 1e-10

@pytest.mark.long
def test_sklearn():
    "ROC and AUC on many samples, with ties and weights"
    from sklearn.metrics import roc_auc_score, roc_curve
    for i in range(200):
        n = int(rng.integers(4, 300))
        s,w,y = rng.integers(rng.integers(1, 30), size=n)/3,rng.exponential(size=n),np.r_[0,1,rng.integers(2, size=n-2)]
        assert abs(auc(s, y, w)-roc_auc_score(y, s, sample_weight=w)) < 1e-13
        for a,b in zip(roc(s, y, w)[:2], roc_curve(y, s, sample_weight=w, drop_intermediate=False)): np.testing.assert_allclose(a, b, atol=1e-13)
