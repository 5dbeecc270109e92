"""Attacks of Python steps: what a run leaves in its process, its files and on the machine is not seen by runs of others."""

from __future__ import annotations

from tests.isolation.attacks import Attack, AttackLanguage, Attempt
from tests.isolation.conftest import AttackTests

PYTHON = AttackLanguage(
    "python",
    '''
import asyncio, atexit, builtins, codecs, contextvars, copyreg, csv, ctypes, decimal, encodings.aliases, errno, faulthandler, fcntl
import fnmatch, functools, gc, http.client, io, json, linecache, locale, logging, mimetypes, os, pathlib, pickle, random, re
import resource, signal, site, socket, sqlite3, ssl, stat, struct, subprocess, sys, tempfile, textwrap, threading, time, types, urllib.request
import warnings, weakref
import importlib.abc, importlib.machinery, importlib.util
import xml.etree.ElementTree as ElementTree

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmdt.argtypes = [ctypes.c_void_p]
libc.getenv.restype = ctypes.c_char_p

def daemon(script, *arguments):
    """Starts a program that leaves the group, the session and the environment of its parent."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, "-I", "-c", textwrap.dedent(script), *arguments], {})
        os._exit(0)
    os.wait()

def processes(text):
    """The processes with *text* in their arguments."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if text in pathlib.Path("/proc", name, "cmdline").read_text():
                found.append(name)
        except OSError:
            continue
    return found

def own_file(name):
    pathlib.Path(name).write_text("own")
    return name

def own_folder(name):
    os.makedirs(name + "/own", exist_ok=True)
    return name

def own_terminal():
    decimal.terminal = os.openpty()
    return os.ttyname(decimal.terminal[1]), os.fstat(decimal.terminal[1]).st_dev

def own_service():
    decimal.service = socket.socket(socket.AF_UNIX)
    decimal.service.bind("/tmp/service.sock")
    decimal.service.listen()
    return "/tmp/service.sock"

def connects(place):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(place)
    return True

def mount_points():
    return [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()][::-1]

def reads_behind(file, mounts):
    """Whether a child can read a file after it has removed mounts in name spaces of its own."""
    if (child := os.fork()) == 0:
        libc.unshare(0x10020000)
        for each in mounts:
            libc.umount2(each.encode(), 2)
        os._exit(0 if os.access(file, os.R_OK) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def sleeping():
    """The number of a child that sleeps."""
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    return child

def traces(place):
    """Whether a child, whose end detaches it, can trace a process. The process is not stopped."""
    if (child := os.fork()) == 0:
        os._exit(0 if libc.ptrace(0x4206, place, None, None) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def read_memory(process):
    start = int(open(f"/proc/self/maps").readline().split("-")[0], 16)
    data = ctypes.create_string_buffer(16)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(data), 16)
    remote = (ctypes.c_void_p * 2)(start, 16)
    count = libc.process_vm_readv(process, local, 1, remote, 1, 0)
    return count > 0 or (count < 0 and ctypes.get_errno() == errno.EFAULT)

def answers(address, family=socket.AF_INET):
    """The first bytes that a listening socket sends, or that it was reached."""
    with socket.socket(family) as client:
        client.settimeout(0.3)
        client.connect(address)
        try:
            return client.recv(100).decode() or "closed"
        except TimeoutError:
            return "connected"

def work(token, targets):
    with tempfile.TemporaryFile("w+") as file:
        file.write(token)
        file.seek(0)
        read = file.read()
    with open("/tmp/work.txt", "w") as file:
        file.write(token)
    with open("/tmp/work.txt") as file:
        opened = file.read()
    os.remove("/tmp/work.txt")
    os.environ["WORK"] = token
    request = urllib.request.Request(targets["url"], headers={"x-token": token})
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = json.load(response)["token"]
    null = os.open(os.devnull, os.O_WRONLY)
    written = os.write(null, token.encode())
    os.close(null)
    logging.getLogger("work").warning(token)
    import colorsys
    return {
        "json": json.loads(json.dumps({"token": token})),
        "pickle": pickle.loads(pickle.dumps(token)),
        "file": read,
        "opened": opened,
        "answer": answer,
        "environment": subprocess.run(["printenv", "WORK"], capture_output=True, text=True).stdout.strip(),
        "written": written == len(token),
        "decimal": str(decimal.Decimal(1) / 7),
        "colour": colorsys.rgb_to_hsv(0.5, 0.5, 0.5),
        "sorted": sorted({"b": 1, "a": 2}),
        "expression": re.sub("[0-9]+", "n", "a1b22"),
    }

FUNCTIONS

def handler(pd):
    body = pd.steps["trigger"]["event"]["body"]
    token, targets = body["token"], body["targets"]
    seen, reached, failed = {}, {}, {}

    def call(kind, number, place=None):
        attack = globals()[f"{kind}_{number}"]
        try:
            value = attack(token, targets, targets["ports"], targets["mark"], targets["key"], place)
        except Exception as error:
            failed[f"{kind} {number}"] = f"{type(error).__name__}: {error}"
        else:
            return value if kind in ("own", "other") else f"{value}"[:2000] if value else None

    for number in body["plant"]:
        call("plant", number)
    done = work(token, targets)
    if body["wait"]:
        time.sleep(0.15)
    for number in body["check"]:
        seen[str(number)] = call("check", number)
        for _ in range(1000 if body["plant"] else 0):
            if seen[str(number)]:
                break
            time.sleep(0.02)  # a daemon of the run starts
            seen[str(number)] = call("check", number)
    for number in body["attempt"]:
        seen[str(number)] = call("access", number, call("own", number))
        place = call("other", number)
        reached[str(number)] = call("access", number, place) if place is not None else "a place that does not exist"
    return {"work": done, "seen": seen, "reached": reached, "failed": failed}
''',
    "def KIND_NUMBER(token, targets, ports, mark, key, place=None):\nBODY\n",
    {
        "json": {"token": "TOKEN"},
        "pickle": "TOKEN",
        "file": "TOKEN",
        "opened": "TOKEN",
        "answer": "TOKEN",
        "environment": "TOKEN",
        "written": True,
        "decimal": "0.1428571428571428571428571429",
        "colour": [0.0, 0.0, 0.5],
        "sorted": ["a", "b"],
        "expression": "anbn",
    },
)

THIEVES = [
    Attack(
        "json.loads keeps what it reads",
        """
        real, json.stolen = json.loads, []
        json.loads = lambda text, **options: json.stolen.append(text) or real(text, **options)
        """,
        "getattr(json, 'stolen', None)",
    ),
    Attack(
        "json.dumps keeps what it writes",
        """
        real, json.written = json.dumps, []
        json.dumps = lambda value, **options: json.written.append(repr(value)) or real(value, **options)
        """,
        "getattr(json, 'written', None)",
    ),
    Attack(
        "pickle.loads keeps what it reads",
        """
        real, pickle.stolen = pickle.loads, []
        pickle.loads = lambda data, **options: pickle.stolen.append(data) or real(data, **options)
        """,
        "getattr(pickle, 'stolen', None)",
    ),
    Attack(
        "builtins.open keeps the names of files",
        """
        real, io.stolen = builtins.open, [token]
        builtins.open = lambda *args, **options: io.stolen.append(args) or real(*args, **options)
        """,
        "getattr(io, 'stolen', None)",
    ),
    Attack(
        "os.write keeps what it writes",
        """
        real, os.stolen = os.write, []
        os.write = lambda number, data: os.stolen.append(bytes(data)) or real(number, data)
        """,
        "getattr(os, 'stolen', None)",
    ),
    Attack(
        "HTTPConnection.putheader keeps headers",
        """
        real, http.stolen = http.client.HTTPConnection.putheader, []
        def putheader(self, *values):
            http.stolen.append(values)
            return real(self, *values)
        http.client.HTTPConnection.putheader = putheader
        """,
        "getattr(http, 'stolen', None)",
    ),
    Attack(
        "the opener of urllib keeps requests",
        """
        urllib.stolen = []
        class Thief(urllib.request.BaseHandler):
            def http_request(self, request):
                urllib.stolen.append(request.headers)
                return request
        urllib.request.install_opener(urllib.request.build_opener(Thief))
        """,
        "getattr(urllib, 'stolen', None)",
    ),
    Attack(
        "a subclass of Popen keeps the environment",
        """
        subprocess.stolen = []
        class Thief(subprocess.Popen):
            def __init__(self, *args, **options):
                subprocess.stolen.append(os.environ.get("WORK"))
                super().__init__(*args, **options)
        subprocess.Popen = Thief
        """,
        "getattr(subprocess, 'stolen', None)",
    ),
    Attack(
        "a log handler keeps records",
        """
        logging.stolen = []
        class Thief(logging.Handler):
            def emit(self, record):
                logging.stolen.append(record.getMessage())
        logging.getLogger("work").addHandler(Thief())
        """,
        "getattr(logging, 'stolen', None)",
    ),
    Attack(
        "an audit hook keeps the arguments of events",
        """
        sys.modules["audited"] = audited = types.ModuleType("audited")
        audited.stolen = [token]
        sys.addaudithook(lambda event, args: audited.stolen.append(str(args)[:50]) if event == "open" else None)
        """,
        "sys.modules['audited'].stolen if 'audited' in sys.modules else None",
    ),
    Attack(
        "sys.meta_path keeps the names of imports and offers a module",
        """
        class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
            def find_spec(self, name, path, target=None):
                return importlib.machinery.ModuleSpec(name, self) if name == "offered" else None
            def exec_module(self, module):
                module.token = token
        sys.meta_path.insert(0, Finder())
        """,
        """
        sys.modules.pop("offered", None)
        return importlib.import_module("offered").token
        """,
    ),
    Attack(
        "socket.getaddrinfo keeps names",
        """
        real, socket.stolen = socket.getaddrinfo, []
        socket.getaddrinfo = lambda *args, **options: socket.stolen.append(args) or real(*args, **options)
        """,
        "getattr(socket, 'stolen', None)",
    ),
]

STATE = [
    Attack(
        "a module in sys.modules", "sys.modules['left'] = types.SimpleNamespace(token=token)", "sys.modules.get('left')"
    ),
    Attack("an attribute of a module", "decimal.left = token", "getattr(decimal, 'left', None)"),
    Attack("a name in builtins", "builtins.left = token", "getattr(builtins, 'left', None)"),
    Attack("an attribute of sys", "sys.left = token", "getattr(sys, 'left', None)"),
    Attack(
        "an attribute of the type str",
        """
        gc.get_referents(str.__dict__)[0]["left"] = token
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(str))
        """,
        "getattr(str, 'left', None)",
    ),
    Attack("an attribute of a class", "pathlib.Path.left = token", "getattr(pathlib.Path, 'left', None)"),
    Attack(
        "the value of a small integer",
        "ctypes.c_int.from_address(id(201) + 24).value = 202",
        "ctypes.c_int.from_address(id(200 + len('a')) + 24).value == 202",
        group="integers",
    ),
    Attack(
        "an object in sys.path_hooks",
        """
        hook = lambda path: 1 / 0 if path == 'left' else (_ for _ in ()).throw(ImportError())
        hook.token = token
        sys.path_hooks.append(hook)
        """,
        "[hook.token for hook in sys.path_hooks if hasattr(hook, 'token')]",
    ),
    Attack(
        "an entry of sys.path_importer_cache",
        "sys.path_importer_cache['/left'] = token",
        "sys.path_importer_cache.get('/left')",
    ),
    Attack(
        "an entry of sys.path", "sys.path.append('/left/' + token)", "[each for each in sys.path if 'left' in each]"
    ),
    Attack("sys.excepthook", "sys.excepthook = lambda *error: None", "sys.excepthook is not sys.__excepthook__"),
    Attack(
        "sys.unraisablehook",
        "sys.unraisablehook = lambda error: None",
        "sys.unraisablehook is not sys.__unraisablehook__",
    ),
    Attack("sys.displayhook", "sys.displayhook = lambda value: None", "sys.displayhook is not sys.__displayhook__"),
    Attack(
        "threading.excepthook",
        "threading.excepthook = lambda error: None",
        "threading.excepthook is not threading.__excepthook__",
    ),
    Attack("the recursion limit", "sys.setrecursionlimit(1777)", "sys.getrecursionlimit() == 1777"),
    Attack("the switch interval", "sys.setswitchinterval(0.0177)", "round(sys.getswitchinterval(), 4) == 0.0177"),
    Attack("the largest number of digits", "sys.set_int_max_str_digits(1777)", "sys.get_int_max_str_digits() == 1777"),
    Attack("sys.dont_write_bytecode", "sys.dont_write_bytecode = 'left'", "sys.dont_write_bytecode == 'left'"),
    Attack("the threshold of the garbage collector", "gc.set_threshold(177)", "gc.get_threshold()[0] == 177"),
    Attack(
        "a callback of the garbage collector",
        """
        notice = lambda phase, about: None
        notice.token = token
        gc.callbacks.append(notice)
        """,
        "[each.token for each in gc.callbacks if hasattr(each, 'token')]",
    ),
    Attack("a function of atexit", "[atexit.register(len, token) for _ in range(100)]", "atexit._ncallbacks() >= 100"),
    Attack(
        "a finalizer",
        """
        decimal.kept = threading.Event()
        weakref.finalize(decimal.kept, len, token)
        """,
        "[each.args for each in weakref.finalize._registry.values() if 'tok-' in str(each.args)]",
    ),
    Attack(
        "a function that runs at a fork",
        """
        os.fork_marks = [token]
        os.register_at_fork(before=lambda: os.fork_marks.append('forked'))
        """,
        "getattr(os, 'fork_marks', None)",
    ),
    Attack(
        "a filter of warnings",
        "warnings.filterwarnings('ignore', token)",
        "[each for each in warnings.filters if each[1] and 'tok-' in each[1].pattern]",
    ),
    Attack(
        "the locale",
        """
        locale.setlocale(locale.LC_TIME, 'C.UTF-8')
        locale.localeconv = lambda: token
        """,
        "locale.setlocale(locale.LC_TIME) == 'C.UTF-8' and 'tok-' in str(locale.localeconv())",
    ),
    Attack(
        "the context of decimal",
        """
        decimal.getcontext().prec = 29
        decimal.getcontext().Emax = 177
        """,
        "decimal.getcontext().Emax == 177",
    ),
    Attack("the default context of decimal", "decimal.DefaultContext.Emax = 178", "decimal.DefaultContext.Emax == 178"),
    Attack("the seed of random", "random.seed('left')", "random.getstate() == random.Random('left').getstate()"),
    Attack(
        "a context variable",
        """
        decimal.variable = contextvars.ContextVar('left')
        decimal.variable.set(token)
        """,
        "[variable.get() for variable in contextvars.copy_context() if variable.name == 'left'] if isinstance(contextvars.copy_context().get(getattr(decimal, 'variable', None)), str) else None",
    ),
    Attack("a line in linecache", "linecache.cache['left'] = (1, None, [token], 'left')", "linecache.getlines('left')"),
    Attack(
        "a reducer of copyreg",
        "copyreg.dispatch_table[types.SimpleNamespace] = lambda value: (str, (token,))",
        "copyreg.dispatch_table.get(types.SimpleNamespace)",
    ),
    Attack(
        "the folder of tempfile",
        """
        os.makedirs('left-here', exist_ok=True)
        tempfile.tempdir = os.path.abspath('left-here')
        """,
        "'left-here' in tempfile.gettempdir()",
    ),
    Attack(
        "the context of TLS",
        """
        insecure = ssl._create_unverified_context
        ssl._create_default_https_context = insecure
        """,
        "ssl._create_default_https_context is ssl._create_unverified_context",
    ),
    Attack("the level of a logger", "logging.getLogger('left').setLevel(17)", "logging.getLogger('left').level == 17"),
    Attack(
        "a filter of the root logger",
        """
        keep = lambda record: True
        keep.token = token
        logging.root.addFilter(keep)
        """,
        "[each.token for each in logging.root.filters]",
    ),
    Attack(
        "the factory of log records",
        """
        real = logging.getLogRecordFactory()
        make = lambda *args, **more: real(*args, **more)
        make.token = token
        logging.setLogRecordFactory(make)
        """,
        "getattr(logging.getLogRecordFactory(), 'token', None)",
    ),
    Attack("the time-out of sockets", "socket.setdefaulttimeout(17.7)", "socket.getdefaulttimeout() == 17.7"),
    Attack(
        "a search function of codecs",
        "codecs.register(lambda name: codecs.CodecInfo(lambda text: (token.encode(), 0), None, name='left') if name == 'left' else None)",
        "codecs.lookup('left').encode('')",
    ),
    Attack(
        "an alias of an encoding", "encodings.aliases.aliases['left'] = token", "encodings.aliases.aliases.get('left')"
    ),
    Attack("a media type", "mimetypes.add_type('text/' + token, '.left')", "mimetypes.guess_type('a.left')[0]"),
    Attack("a dialect of csv", "csv.register_dialect('left', delimiter=';')", "'left' in csv.list_dialects()"),
    Attack(
        "an adapter of sqlite3",
        "sqlite3.register_adapter(types.SimpleNamespace, lambda value: token)",
        "sqlite3.connect(':memory:').execute('select ?', [types.SimpleNamespace()]).fetchone()",
    ),
    Attack(
        "a name space of XML",
        "ElementTree.register_namespace('left', 'urn:' + token)",
        "[uri for uri, prefix in ElementTree._namespace_map.items() if prefix == 'left']",
    ),
    Attack(
        "the cache of regular expressions", "re.compile(token)", "[each for each in re._cache if 'tok-' in str(each)]"
    ),
    Attack(
        "a cache of functools",
        "fnmatch._compile_pattern.left = token",
        "getattr(fnmatch._compile_pattern, 'left', None)",
    ),
    Attack(
        "a client of a module, with its credentials",
        """
        http.kept = urllib.request.build_opener()
        http.kept.addheaders = [('x-token', token)]
        """,
        "json.load(http.kept.open(targets['url'], timeout=10))['token']",
    ),
    Attack(
        "the policy of asyncio",
        """
        class Left(asyncio.DefaultEventLoopPolicy): pass
        asyncio.set_event_loop_policy(Left())
        """,
        "type(asyncio.get_event_loop_policy()).__name__ == 'Left'",
    ),
    Attack(
        "an event loop with a task",
        """
        loop = asyncio.new_event_loop()
        asyncio.kept = loop, loop.create_task(asyncio.sleep(1000), name=token)
        """,
        "[task.get_name() for task in asyncio.all_tasks(asyncio.kept[0])]",
    ),
    Attack("the trace function of threads", "threading.settrace(lambda *about: None)", "threading.gettrace()"),
    Attack("the profile function of threads", "threading.setprofile(lambda *about: None)", "threading.getprofile()"),
    Attack(
        "faulthandler",
        """
        decimal.faults = open(os.devnull, 'w')
        faulthandler.enable(decimal.faults)
        """,
        "faulthandler.is_enabled()",
    ),
    Attack("a variable in os.environ", "os.environ['LEFT'] = token", "os.environ.get('LEFT')"),
    Attack(
        "a proxy in os.environ", "os.environ['FTP_PROXY'] = 'http://' + token", "urllib.request.getproxies().get('ftp')"
    ),
    Attack(
        "a variable set behind os.environ",
        "libc.setenv(b'LEFT_BEHIND', token.encode(), 1)",
        "libc.getenv(b'LEFT_BEHIND')",
    ),
    Attack("the trace function", "sys.settrace(lambda *about: None)", "sys.gettrace()"),
    Attack("the profile function", "sys.setprofile(lambda *about: None)", "sys.getprofile()"),
]

PROCESS = [
    Attack(
        "a signal handler",
        "signal.signal(signal.SIGWINCH, lambda *about: None)",
        "signal.getsignal(signal.SIGWINCH) not in (signal.SIG_DFL, signal.SIG_IGN)",
        group="process",
    ),
    Attack(
        "an ignored signal",
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        "signal.getsignal(signal.SIGHUP) == signal.SIG_IGN",
        group="process",
    ),
    Attack(
        "a blocked signal",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [])",
        group="process",
    ),
    Attack(
        "the descriptor of signals",
        """
        decimal.pair = socket.socketpair()
        decimal.pair[0].setblocking(False)
        signal.set_wakeup_fd(decimal.pair[0].fileno())
        """,
        "(number := signal.set_wakeup_fd(-1)) != -1 and signal.set_wakeup_fd(number) == -1",
        group="process",
    ),
    Attack(
        "a timer",
        "signal.setitimer(signal.ITIMER_REAL, 1000)",
        "signal.getitimer(signal.ITIMER_REAL)[0]",
        group="process",
    ),
    Attack(
        "a timer of its own processor time",
        "signal.setitimer(signal.ITIMER_VIRTUAL, 1000)",
        "signal.getitimer(signal.ITIMER_VIRTUAL)[0]",
        group="process",
    ),
    Attack(
        "a timer of processor time",
        "signal.setitimer(signal.ITIMER_PROF, 1000)",
        "signal.getitimer(signal.ITIMER_PROF)[0]",
        group="process",
    ),
    Attack(
        "the file mode mask",
        "os.umask(0o177)",
        "(mask := os.umask(0o177)) == 0o177 or os.umask(mask) < 0",
        group="process",
    ),
    Attack(
        "the limit of open files",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (177, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 177",
        group="process",
    ),
    Attack(
        "the limit of a core file",
        "resource.setrlimit(resource.RLIMIT_CORE, (177, 177))",
        "resource.getrlimit(resource.RLIMIT_CORE)[0] == 177",
        group="process",
    ),
    Attack(
        "the priority",
        "os.setpriority(os.PRIO_PROCESS, 0, 17)",
        "os.getpriority(os.PRIO_PROCESS, 0) == 17",
        group="process",
    ),
    Attack(
        "the processors",
        "os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])",
        "len(os.sched_getaffinity(0)) < os.cpu_count()",
        group="process",
    ),
    Attack(
        "the name of the process",
        "libc.prctl(15, b'left')",
        "pathlib.Path('/proc/self/comm').read_text() == 'left\\n'",
        group="process",
    ),
    Attack(
        "being a subreaper",
        "libc.prctl(36, 1)",
        "(found := ctypes.c_int()) is not None and libc.prctl(37, ctypes.byref(found)) == 0 and found.value",
        group="process",
    ),
    Attack("the working folder", "os.chdir('/usr')", "os.getcwd() == '/usr'", group="process"),
    Attack(
        "an open file",
        """
        decimal.opened = os.open('/tmp/left-open', os.O_RDWR | os.O_CREAT)
        os.write(decimal.opened, token.encode())
        """,
        "[os.pread(int(number), 99, 0) for number in os.listdir('/proc/self/fd') if 'left-open' in os.path.realpath(f'/proc/self/fd/{number}')]",
        group="process",
    ),
    Attack(
        "more descriptors than a worker has",
        "decimal.many = [os.open(os.devnull, os.O_RDONLY) for _ in range(30)]",
        "[os.readlink(f'/proc/self/fd/{each}') for each in map(int, os.listdir('/proc/self/fd')) if 9 < each and os.path.exists(f'/proc/self/fd/{each}')]",
        group="process",
    ),
    Attack(
        "an open file in memory",
        "os.write(os.memfd_create('left'), token.encode())",
        "[os.pread(int(number), 99, 0) for number in os.listdir('/proc/self/fd') if os.path.islink(f'/proc/self/fd/{number}') and 'memfd:left' in os.readlink(f'/proc/self/fd/{number}')]",
        group="process",
    ),
    Attack(
        "a pipe with data",
        """
        reads, writes = os.pipe()
        os.dup2(reads, 77)
        os.write(writes, token.encode())
        decimal.pipe = writes
        """,
        "struct.unpack('i', fcntl.ioctl(77, 0x541B, b'0000'))[0] > 0",
        group="process",
    ),
    Attack(
        "a pair of sockets with data",
        """
        decimal.sockets = socket.socketpair()
        decimal.sockets[1].send(token.encode())
        os.dup2(decimal.sockets[0].fileno(), 78)
        """,
        "socket.socket(fileno=os.dup(78)).recv(99, socket.MSG_PEEK)",
        group="process",
    ),
    Attack(
        "a lock on a file that all runs read",
        """
        decimal.locked = os.open(os.path.realpath(sys.executable), os.O_RDONLY)
        fcntl.flock(decimal.locked, fcntl.LOCK_EX)
        """,
        """
        for _ in range(60):  # the process of the run before ends a moment after its run
            try:
                with open(os.path.realpath(sys.executable), 'rb') as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
            else:
                return None
        return 'locked'
        """,
        group="process",
    ),
    Attack(
        "an abstract socket of the process",
        """
        decimal.abstract = socket.socket(socket.AF_UNIX)
        decimal.abstract.bind('\\0' + mark)
        decimal.abstract.listen()
        """,
        "answers('\\0' + mark, socket.AF_UNIX)",
        group="process",
    ),
    Attack(
        "a port on which the process listens",
        "decimal.port = socket.create_server(('127.0.0.1', ports[0]))",
        "answers(('127.0.0.1', ports[0]))",
        group="process",
    ),
    Attack(
        "a UDP port of the process",
        """
        decimal.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        decimal.udp.bind(('127.0.0.1', ports[1]))
        """,
        """
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(('127.0.0.1', ports[1]))
        except OSError:
            return 'taken'
        return None
        """,
        group="process",
    ),
    Attack(
        "a thread",
        "threading.Thread(target=time.sleep, args=[5], name='left', daemon=True).start()",
        "[thread.name for thread in threading.enumerate() if thread.name == 'left']",
        group="leftovers later",
    ),
    Attack(
        "a timer of threading",
        """
        timer = threading.Timer(1000, len, [token])
        timer.daemon = True
        timer.name = 'left-timer'
        timer.start()
        """,
        "[thread.args for thread in threading.enumerate() if thread.name == 'left-timer']",
        group="leftovers later",
    ),
    Attack(
        "a thread that writes files",
        """
        import _thread
        def write():
            while True:
                pathlib.Path('/tmp/left-by-thread').write_text(token)
                time.sleep(0.01)
        _thread.start_new_thread(write, ())
        """,
        "pathlib.Path('/tmp/left-by-thread').read_text()",
        group="leftovers later",
    ),
]

FILES = [
    Attack(
        "files in folders that every program may write",
        """
        for place in ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock"):
            try:
                pathlib.Path(place, mark).write_text(token)
            except OSError:
                pass
        """,
        """
        places = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")
        return [place for place in places if pathlib.Path(place, mark).exists()]
        """,
        group="files",
    ),
    Attack(
        "a file in /tmp",
        "pathlib.Path('/tmp', mark + '1').write_text(token)",
        "pathlib.Path('/tmp', mark + '1').read_text()",
        group="files",
    ),
    Attack(
        "a file in /dev/shm",
        "pathlib.Path('/dev/shm', mark + '1').write_text(token)",
        "pathlib.Path('/dev/shm', mark + '1').read_text()",
        group="files",
    ),
    Attack(
        "a file in HOME",
        "pathlib.Path.home().joinpath('left').write_text(token)",
        "pathlib.Path.home().joinpath('left').read_text()",
        group="files",
    ),
    Attack(
        "a file in the working folder",
        "pathlib.Path('left-here.txt').write_text(token)",
        "pathlib.Path('left-here.txt').read_text()",
        group="files",
    ),
    Attack(
        "a file in the cache of XDG",
        """
        cache = pathlib.Path.home() / '.cache'
        cache.mkdir(exist_ok=True)
        (cache / 'left').write_text(token)
        """,
        "pathlib.Path.home().joinpath('.cache', 'left').read_text()",
        group="files",
    ),
    Attack(
        "settings of pip",
        """
        folder = pathlib.Path.home() / '.config' / 'pip'
        folder.mkdir(parents=True)
        (folder / 'pip.conf').write_text(f'[global]\\nindex-url = http://{token}')
        """,
        "pathlib.Path.home().joinpath('.config', 'pip', 'pip.conf').read_text()",
        group="files",
    ),
    Attack(
        "usercustomize",
        """
        folder = pathlib.Path.home().joinpath(*pathlib.Path(site.getusersitepackages()).parts[-4:])
        folder.mkdir(parents=True)
        (folder / 'usercustomize.py').write_text(f'token = {token!r}')
        """,
        "pathlib.Path.home().joinpath(*pathlib.Path(site.getusersitepackages()).parts[-4:], 'usercustomize.py').read_text()",
        group="files",
    ),
    Attack(
        "a password in ~/.netrc",
        """
        file = pathlib.Path.home() / '.netrc'
        file.write_text(f'machine left login a password {token}')
        file.chmod(0o600)
        """,
        """
        import netrc
        return netrc.netrc().authenticators('left')
        """,
        group="files",
    ),
    Attack(
        "a module beside the step",
        "pathlib.Path('left_module.py').write_text(f'token = {token!r}')",
        """
        sys.path.insert(0, os.getcwd())
        return importlib.import_module('left_module').token
        """,
        group="files",
    ),
    Attack(
        "byte code of a module beside the step",
        """
        import py_compile
        pathlib.Path('left_code.py').write_text(f'token = {token!r}')
        py_compile.compile('left_code.py', invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        pathlib.Path('left_code.py').write_text('token = None')
        """,
        """
        sys.path.insert(0, os.getcwd())
        return importlib.import_module('left_code').token
        """,
        group="files",
    ),
    Attack(
        "shared memory of POSIX",
        """
        import _posixshmem
        os.write(_posixshmem.shm_open('/' + mark + '2', os.O_CREAT | os.O_RDWR, mode=0o666), token.encode())
        """,
        """
        import _posixshmem
        return os.pread(_posixshmem.shm_open('/' + mark + '2', os.O_RDONLY), 99, 0)
        """,
        group="files",
    ),
    Attack(
        "a semaphore of POSIX",
        """
        import _multiprocessing
        decimal.semaphore = _multiprocessing.SemLock(1, 1, 1, '/' + mark, False)
        """,
        """
        import _multiprocessing
        return _multiprocessing.SemLock._rebuild(0, 1, 1, '/' + mark)
        """,
        group="files",
    ),
    Attack(
        "shared memory of System V",
        """
        address = libc.shmat(libc.shmget(key, 64, 0o1666), None, 0)
        ctypes.memmove(address, token.encode(), len(token))
        """,
        "(number := libc.shmget(key, 64, 0)) >= 0 and ctypes.string_at(libc.shmat(number, None, 0))",
        group="files",
    ),
    Attack("a semaphore of System V", "libc.semget(key, 1, 0o1666)", "libc.semget(key, 1, 0) >= 0", group="files"),
    Attack(
        "a message of System V",
        "libc.msgsnd(libc.msgget(key, 0o1666), struct.pack('l', 1) + token.encode(), len(token), 0)",
        "libc.msgget(key, 0) >= 0",
        group="files",
    ),
]

DAEMONS = [
    Attack(
        "a daemon",
        """
        daemon("import time; time.sleep(60)", token, mark)
        """,
        "processes(mark)",
        group="daemons later",
    ),
    Attack(
        "a daemon that writes files",
        """
        daemon(
            f'''
            import time
            while True:
                open("/tmp/{mark}4", "w").write({token!r})
                time.sleep(0.01)
            ''',
            token,
            mark,
        )
        """,
        "pathlib.Path('/tmp', mark + '4').read_text()",
        group="daemons later",
    ),
    Attack(
        "a daemon on an abstract socket",
        """
        daemon(
            f'''
            import socket
            listening = socket.socket(socket.AF_UNIX)
            listening.bind("\\\\x00{mark}5")
            listening.listen()
            while True:
                listening.accept()[0].send({token!r}.encode())
            ''',
            token,
            mark,
        )
        """,
        "answers(f'\\0{mark}5', socket.AF_UNIX)",
        group="daemons later",
    ),
    Attack(
        "a daemon on a port",
        """
        daemon(
            f'''
            import socket
            listening = socket.create_server(("127.0.0.1", {ports[2]}))
            while True:
                listening.accept()[0].send({token!r}.encode())
            ''',
            token,
            mark,
        )
        """,
        "answers(('127.0.0.1', ports[2]))",
        group="daemons later",
    ),
    Attack(
        "a daemon that prints to the output of steps",
        """
        daemon(f"import time; [time.sleep(0.05) or print({token!r}, flush=True) for _ in range(500)]", token, mark + "6")
        """,
        "processes(mark + '6')",
        group="daemons later",
    ),
    Attack(
        "a child that writes replies",
        """
        if os.fork() == 0:
            for number in range(3, 20):
                try:
                    os.write(number, b\'1 {"t":"done","error":null}\\n\')
                except OSError:
                    pass
            time.sleep(5)
            os._exit(0)
        """,
        "pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text()",
        group="leftovers later",
    ),
    Attack(
        "a traced child",
        """
        decimal.child = os.fork()
        if decimal.child == 0:
            libc.ptrace(0, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        """,
        "os.waitid(os.P_PID, decimal.child, os.WSTOPPED | os.WNOWAIT) if hasattr(decimal, 'child') else None",
        group="leftovers later",
    ),
]

ATTEMPTS = [
    Attempt("the project's key", "len(open(place, 'rb').read())", "own_file('key')", "targets['key_file']"),
    Attempt(
        "the project's database",
        "len(open(place, 'rb').read())",
        "own_file('database')",
        "targets['project'] + '/project.db'",
    ),
    Attempt(
        "writing the project's database",
        "open(place, 'ab')",
        "own_file('database')",
        "targets['project'] + '/project.db'",
    ),
    Attempt(
        "the list of the project's folder",
        "{'own', 'key', 'project.db'}.intersection(os.listdir(place))",
        "own_folder('project')",
        "targets['project']",
    ),
    Attempt(
        "the mode of a folder of the server's user",
        "os.chmod(place, stat.S_IMODE(os.stat(place).st_mode)) or 'changed'",
        "own_folder('mode')",
        "targets['home']",
    ),
    Attempt(
        "the mode of the workflow's folder",
        "os.chmod(place, stat.S_IMODE(os.stat(place).st_mode)) or 'changed'",
        "own_folder('mode')",
        "targets['folder']",
    ),
    Attempt(
        "the times of the folder of all temporary files",
        "os.utime(place, ns=(os.stat(place).st_atime_ns, os.stat(place).st_mtime_ns)) or 'changed'",
        "own_folder('times')",
        "os.path.dirname(os.path.dirname(targets['folder']))",
    ),
    Attempt(
        "the attributes of the workflow's folder",
        "os.setxattr(place, 'user.attack', b'x') or 'changed'",
        "own_folder('attributes')",
        "targets['folder']",
    ),
    Attempt("the home folder of the server's user", "os.listdir(place)", "own_folder('home')", "targets['home']"),
    *(
        Attempt(name, "tempfile.TemporaryFile(dir=place)", "own_folder('written')", place)
        for name, place in {
            "writing in the project's folder": "targets['project']",
            "writing in the workflow's folder": "targets['folder']",
            "writing in the packages of the workflow": "sys.prefix + '/lib'",
            "writing beside the interpreter, for sitecustomize": "os.path.dirname(sys.executable)",
            "writing in the standard library": "os.path.dirname(json.__path__[0])",
            "writing byte code of the standard library": "os.path.dirname(json.__cached__)",
            "writing beside the program of the worker": "targets['runtimes']",
            "writing in /etc": "'/etc'",
            "writing in /var/tmp": "'/var/tmp'",
            "writing in /dev/mqueue": "'/dev/mqueue'",
            "writing in /run/lock": "'/run/lock'",
            "writing in the home folder of the server's user": "targets['home']",
        }.items()
    ),
    *(
        Attempt(name, access, "os.getpid()", "targets['server']")
        for name, access in {
            "the environment of the server": "len(open(f'/proc/{place}/environ', 'rb').read())",
            "the arguments of the server": "open(f'/proc/{place}/cmdline', 'rb').read()",
            "the memory of the server": "open(f'/proc/{place}/mem', 'rb')",
            "the map of the server's memory": "len(open(f'/proc/{place}/maps', 'rb').read())",
            "the descriptors of the server": "[os.readlink(f'/proc/{place}/fd/{each}') for each in os.listdir(f'/proc/{place}/fd') if each < '3']",
            "the files of the server, by /proc": "os.listdir(f'/proc/{place}/root/tmp/')",
            "the working folder of the server, by /proc": "os.listdir(f'/proc/{place}/cwd/')",
            "a signal to the server": "os.kill(place, 0) is None",
            "the limits of the server": "resource.prlimit(place, resource.RLIMIT_CORE)",
            "the priority of the server": "os.getpriority(os.PRIO_PROCESS, place) is not None",
            "the processors of the server": "os.sched_getaffinity(place)",
        }.items()
    ),
    *(
        Attempt(f"{name} {of}", access, own, place, is_available=False)
        for of, place in {"the server": "targets['server']", "the worker's parent": "os.getppid()"}.items()
        for name, access, own in (
            ("reading by a system call the memory of", "read_memory(place)", "os.getpid()"),
            ("taking a descriptor of", "libc.syscall(438, os.pidfd_open(place), 0, 0) >= 0", "os.getpid()"),
            ("tracing", "traces(place)", "sleeping()"),
        )
    ),
    Attempt(
        "a file for another user", "os.chown('given', place, -1) is None", "own_file('given') and os.getuid()", "12345"
    ),
    *(
        Attempt(f"{name} of the worker's parent", access, "os.getpid()", "os.getppid()")
        for name, access in {
            "the environment": "open(f'/proc/{place}/environ', 'rb').read() or 'empty'",
            "the memory": "open(f'/proc/{place}/mem', 'rb')",
            "the descriptors": "[os.readlink(f'/proc/{place}/fd/{each}') for each in os.listdir(f'/proc/{place}/fd') if each < '3']",
            "the files": "os.listdir(f'/proc/{place}/root/tmp/')",
        }.items()
    ),
    Attempt(
        "the project's key, behind the mounts",
        "reads_behind(*place)",
        "(own_file('key'), [])",
        "(targets['key_file'], mount_points())",
    ),
    Attempt(
        "a device of the machine",
        "os.mknod('device', place | 0o600, os.makedev(7, 0)) is None",
        "stat.S_IFIFO",
        "stat.S_IFBLK",
    ),
    Attempt("the log of the kernel", "open(place, 'rb')", "'/dev/null'", "'/dev/kmsg'"),
    Attempt(
        "a terminal of the server",
        "os.stat(place[0]).st_dev == place[1] and os.open(place[0], os.O_RDWR | os.O_NOCTTY)",
        "own_terminal()",
        "targets['terminal']",
    ),
    Attempt("a Unix socket of a service", "connects(place)", "own_service()", "targets['service']"),
]


class TestPython(AttackTests):
    """Attacks of Python steps."""

    language = PYTHON
    attacks = (*THIEVES, *STATE, *PROCESS, *FILES, *DAEMONS, *ATTEMPTS)
