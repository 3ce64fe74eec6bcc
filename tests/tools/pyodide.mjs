// Runs the code cells of a notebook in Pyodide, as a page of JupyterLite would, and prints what they say.
//
//     node pyodide.mjs MODULES SITE CHECKOUT NOTEBOOK PACKAGE...
//
// MODULES is a folder in which npm has installed pyodide; SITE a folder of Python packages, of which the
// pure ones that are named are linked; nothing is fetched.
const [modules, site, checkout, notebook, ...packages] = process.argv.slice(2);
const { loadPyodide } = await import(`${modules}/node_modules/pyodide/pyodide.mjs`);
const pyodide = await loadPyodide();
for (const [folder, root] of [["/site", site], ["/checkout", checkout]]) {
  pyodide.FS.mkdir(folder);
  pyodide.mountNodeFS(folder, root);
}
pyodide.globals.set("packages", pyodide.toPy(packages));
pyodide.globals.set("notebook", notebook);
pyodide.runPython(`
import json, os, shutil, sys, types
os.makedirs("/pure")
for name in packages:
    os.symlink(f"/site/{name}", f"/pure/{name}")
sys.path[:0] = ["/pure", "/checkout"]
shutil.copytree("/checkout/notebooks", "/home/notebooks", ignore=shutil.ignore_patterns("__pycache__"))
os.chdir("/home/notebooks")
os.environ["HOME"] = "/home"
for name in ("fcntl", "pexpect", "resource", "termios"):  # what the kernel of JupyterLite puts in their places
    sys.modules[name] = types.ModuleType(name)
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
for cell in json.load(open(notebook))["cells"]:
    if cell["cell_type"] == "code":
        assert shell.run_cell("".join(cell["source"])).success, cell["source"]
for code in ["%config O3Pro.replay = 'auto'", "%aiml sandbox", "%aiml status"]:
    assert shell.run_cell(code).success, code
for code in ["%o3pro Recorded?", "%o3pro -b Recorded?", "%aiml models", "%aiml export x.html"]:
    print("##", code)
    assert not shell.run_cell(code).success, code
assert "aiml_magic" in sys.modules
assert not {"httpx", "tornado", "nh3", "pydantic"} & sys.modules.keys()
`);
