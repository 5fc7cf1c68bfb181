"Sphinx settings of the local documentation (`make docs`): everything it loads lies in _static"
from pathlib import Path

project, author, html_title = 'hepebm', 'the hepebm authors', 'hepebm'
root_doc, html_theme = 'index', 'sphinx_book_theme'
extensions = ['myst_nb', 'sphinx_design', 'sphinx_copybutton']
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline', 'deflist']
myst_heading_anchors = 4
suppress_warnings = ['myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type']
html_static_path = [str(Path(__file__).parent.parent/'_site_src'/'_static')]
html_css_files = ['styles.css']
mathjax_path = 'tex-svg.js'
html_show_search_summary = False  # a page opened as a file may not fetch others
html_show_sourcelink = html_show_copyright = False
html_theme_options = dict(show_navbar_depth=1, home_page_in_toc=True, navbar_persistent=[])
