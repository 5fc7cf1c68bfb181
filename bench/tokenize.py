"""The benchmark of tokenising, see tokenizing.py; to programs in this folder, whose `import tokenize` finds this file first, the standard library's module of that name"""
import os, sys
if __name__=='__main__':
    import runpy
    runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tokenizing.py'), run_name='__main__')
else:
    from importlib.util import module_from_spec, spec_from_file_location
    _spec = spec_from_file_location(__name__, os.path.join(os.path.dirname(os.__file__), 'tokenize.py'))
    sys.modules[__name__] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
