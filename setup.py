from configparser import ConfigParser
from pathlib import Path
import re, setuptools

root = Path(__file__).parent
cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
words = lambda key: cfg.get(key, '').split()

setuptools.setup(
    version=re.search(r'__version__ = "(.+?)"', (root/'hepebm/__init__.py').read_text())[1],  # nbdev-bump-version edits only this
    keywords=words('keywords'), license=cfg['license'], author=cfg['author'], author_email=cfg['author_email'],
    long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Physics'],
    packages=setuptools.find_packages(include=['hepebm', 'hepebm.*']), include_package_data=True, zip_safe=False,
    install_requires=words('requirements'),
    extras_require={k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')},
    entry_points={'nbdev': ['hepebm=hepebm._modidx:d'], 'console_scripts': ['hepebm=hepebm.cli:main']})
