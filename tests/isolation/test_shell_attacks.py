"""Attacks of Bash and Go steps: what their processes, files and daemons leave is not seen by runs of others."""

from __future__ import annotations

from tests.isolation.attacks import Attack, AttackLanguage, Attempt
from tests.isolation.conftest import AttackTests

BASH = AttackLanguage(
    "bash",
    r"""
eval "$(jq -r '.trigger.event.body | . + .targets | to_entries[] | select(.key != "targets")
  | if .value | type == "array" then "\(.key)=(\(.value | @sh))" else "\(.key)=\(.value | @sh)" end' "$PIPEDREAM_STEPS")"
place=

# the processes with a text in their arguments; the pattern does not match itself
processes() { grep -las -- "[${1:0:1}]${1:1}" /proc/[0-9]*/cmdline; }
own_file() { echo own > "$1"; echo "$1"; }
own_folder() { mkdir -p "$1/own"; echo "$1"; }
writes() { : > "$1/$mark" && rm "$1/$mark" && echo written; }

FUNCTIONS

seen='"":null' reached='"":null'
note() { value=${value//[^a-zA-Z0-9 \/._-]/ }; printf -v "$1" '%s,"%s":%s' "${!1}" "$2" "${value:+\"${value:0:1000}\"}"; [[ $value ]] || printf -v "$1" '%snull' "${!1}"; }
for number in "${plant[@]}"; do plant_$number 2> /dev/null; done
export WORK=$token
echo "$token" > /tmp/work.txt
work=$(jq -nc --arg token "$(cat /tmp/work.txt)" --arg environment "$(printenv WORK)" --arg sum "$((40 + 2))" \
  --arg lines "$(printf '%s\n' b a | sort | tr -d '\n')" '{token: $token, environment: $environment, sum: $sum, lines: $lines}')
rm /tmp/work.txt
[[ $wait == true ]] && sleep 0.15
for number in "${check[@]}"; do
  value=$(check_$number 2> /dev/null)
  for ((left = ${#plant[@]} ? 1000 : 0; left > 0 && ! ${#value}; left--)); do sleep 0.02; value=$(check_$number 2> /dev/null); done
  note seen $number
done
for number in "${attempt[@]}"; do
  place=$(own_$number); value=$(access_$number 2> /dev/null); note seen $number
  place=$(other_$number); value=$(access_$number 2> /dev/null); note reached $number
done
printf '$return_value:json={"work":%s,"seen":{%s},"reached":{%s},"failed":{}}\n' "$work" "$seen" "$reached" >> "$PIPEDREAM_EXPORTS"
""",
    "KIND_NUMBER() {\nBODY\n}\n",
    {"token": "TOKEN", "environment": "TOKEN", "sum": "42", "lines": "ab"},
)

GO = AttackLanguage(
    "go",
    r"""package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	pd "github.com/PipedreamHQ/pipedream-go"
)

type Run struct {
	Token, Mark, Project, Folder, KeyFile, Place string
	Server, Key                                  int
	Ports                                        []string
}

func must(err error) bool {
	if err != nil {
		panic(err)
	}
	return true
}

// daemon starts this program again, without its parent's group, session and environment.
func daemon(arguments ...string) {
	program := must2(os.Executable())
	process := must2(os.StartProcess("/bin/bash", append([]string{"bash", "-c", `("$0" "$@" &)`, program}, arguments...),
		&os.ProcAttr{Env: []string{}, Files: []*os.File{nil, nil, nil}, Sys: &syscall.SysProcAttr{Setsid: true}}))
	process.Wait()
}

func must2[T any](value T, err error) T {
	must(err)
	return value
}

func serve(kind, address, token string) {
	listener, err := net.Listen(kind, address)
	for err == nil {
		var client net.Conn
		if client, err = listener.Accept(); err == nil {
			client.Write([]byte(token))
			client.Close()
		}
	}
	os.Exit(0)
}

func answers(kind, address string) string {
	client := must2(net.DialTimeout(kind, address, 300*time.Millisecond))
	defer client.Close()
	client.SetDeadline(time.Now().Add(300 * time.Millisecond))
	answer, _ := io.ReadAll(client)
	return "answer: " + string(answer)
}

func read(name string) string { return string(must2(os.ReadFile(name))) }

func processes(text string) string {
	found := ""
	for _, name := range must2(filepath.Glob("/proc/[0-9]*/cmdline")) {
		if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), text) {
			found += name + " "
		}
	}
	return found
}

func ownFolder(name string) string {
	must(os.MkdirAll(name+"/own", 0o700))
	return name
}

func ownFile(name string) string {
	must(os.WriteFile(name, []byte("own"), 0o600))
	return name
}

func writes(folder, mark string) string {
	ownFile(folder + "/" + mark)
	must(os.Remove(folder + "/" + mark))
	return "written"
}

FUNCTIONS

var functions = map[string]func(Run) string{NAMES}

func call(name string, run Run) (value string) {
	defer func() {
		if problem := recover(); problem != nil {
			value = ""
		}
	}()
	return functions[name](run)
}

func main() {
	if len(os.Args) > 3 {
		if os.Args[1] == "sleep" {
			time.Sleep(time.Minute)
		}
		if os.Args[1] == "write" {
			for {
				os.WriteFile(os.Args[2], []byte(os.Args[3]), 0o600)
				time.Sleep(10 * time.Millisecond)
			}
		}
		serve(os.Args[1], os.Args[2], os.Args[3])
	}
	var event struct {
		Token, Wait          any
		Plant, Check, Attempt []int
		Targets              struct {
			Mark, Project, Folder string
			KeyFile               string `json:"key_file"`
			Server, Key           int
			Ports                 []int
		}
	}
	trigger := pd.Steps["trigger"].(map[string]interface{})["event"].(map[string]interface{})["body"]
	must(json.Unmarshal(must2(json.Marshal(trigger)), &event))
	to := event.Targets
	run := Run{Token: event.Token.(string), Mark: to.Mark, Project: to.Project, Folder: to.Folder, KeyFile: to.KeyFile, Server: to.Server, Key: to.Key}
	for _, port := range to.Ports {
		run.Ports = append(run.Ports, "127.0.0.1:"+strconv.Itoa(port))
	}
	seen, reached := map[string]any{}, map[string]any{}
	for _, number := range event.Plant {
		call(fmt.Sprintf("plant_%d", number), run)
	}
	must(os.WriteFile("/tmp/work.txt", []byte(run.Token), 0o600))
	work := map[string]any{"token": read("/tmp/work.txt"), "sum": 40 + 2}
	must(os.Remove("/tmp/work.txt"))
	if event.Wait == true {
		time.Sleep(150 * time.Millisecond)
	}
	note := func(into map[string]any, number int, value string) {
		if into[strconv.Itoa(number)] = any(nil); value != "" {
			into[strconv.Itoa(number)] = value
		}
	}
	for _, number := range event.Check {
		value := call(fmt.Sprintf("check_%d", number), run)
		for left := 1000; left > 0 && value == "" && len(event.Plant) > 0; left-- {
			time.Sleep(20 * time.Millisecond)
			value = call(fmt.Sprintf("check_%d", number), run)
		}
		note(seen, number, value)
	}
	for _, number := range event.Attempt {
		run.Place = call(fmt.Sprintf("own_%d", number), run)
		note(seen, number, call(fmt.Sprintf("access_%d", number), run))
		run.Place = call(fmt.Sprintf("other_%d", number), run)
		note(reached, number, call(fmt.Sprintf("access_%d", number), run))
	}
	pd.Export("$return_value", map[string]any{"work": work, "seen": seen, "reached": reached, "failed": map[string]any{}})
}
""",
    "func KIND_NUMBER(run Run) string {\nBODY\n}\n",
    {"token": "TOKEN", "sum": 42},
    entry='"NAME": NAME',
)

BASH_ATTACKS: list[Attack | Attempt] = [
    Attack(
        "a background process",
        "bash -c 'sleep 60; true' ${mark}b $token & disown",
        "processes ${mark}b",
        group="daemons later",
    ),
    Attack(
        "a process of nohup",
        "nohup bash -c 'while sleep 0.02; do echo $1; done' ${mark}n $token > /dev/null &",
        "processes ${mark}n",
        group="daemons later",
    ),
    Attack(
        "a process of setsid",
        "setsid -f bash -c 'sleep 60; true' ${mark}s $token > /dev/null",
        "processes ${mark}s",
        group="daemons later",
    ),
    Attack(
        "a process without the environment",
        "(env -i setsid -f /bin/bash -c 'sleep 60; true' ${mark}e $token &)",
        "processes ${mark}e",
        group="daemons later",
    ),
    Attack(
        "a process that writes files",
        "(env -i setsid -f /bin/bash -c 'while /bin/sleep 0.01; do echo $1 > /tmp/written; done' ${mark}w $token &)",
        "cat /tmp/written",
        group="daemons later",
    ),
    Attack(
        "a process that prints to the output of steps",
        "(env -i setsid -f /bin/bash -c 'while /bin/sleep 0.02; do echo $1; done' ${mark}p $token &)",
        "processes ${mark}p",
        group="daemons later",
    ),
    Attack(
        "a process that reads a pipe in the file system",
        "mkfifo /tmp/fifo; (env -i setsid -f /bin/bash -c 'while :; do read line < /tmp/fifo; echo $line > /tmp/heard; done' ${mark}f $token &)",
        "[[ -p /tmp/fifo ]] && timeout 1 bash -c 'echo heard > /tmp/fifo'; cat /tmp/heard",
        group="daemons later",
    ),
    Attack(
        "a stopped process",
        "bash -c 'kill -STOP $$; true' ${mark}t $token &",
        "processes ${mark}t",
        group="daemons later",
    ),
    Attack(
        "a coprocess",
        "coproc { exec bash -c 'sleep 60; true' ${mark}c $token; }",
        "processes ${mark}c",
        group="daemons later",
    ),
    Attack("a file in /tmp", "echo $token > /tmp/$mark.b", "cat /tmp/$mark.b"),
    Attack("a file in /dev/shm", "echo $token > /dev/shm/$mark.b", "cat /dev/shm/$mark.b"),
    Attack("~/.bashrc", "echo 'left=$token' > ~/.bashrc", "cat ~/.bashrc"),
    Attack("~/.profile", "echo export LEFT=$token > ~/.profile", "bash -lc 'echo $LEFT'"),
    Attack("~/.gitconfig", 'echo "[user] name = $token" > ~/.gitconfig', "cat ~/.gitconfig"),
    Attack("~/.ssh", "mkdir -p ~/.ssh; echo $token > ~/.ssh/config", "cat ~/.ssh/config"),
    Attack(
        "BASH_ENV", 'echo "LEFT_ENV=$token" > /tmp/bash-env; export BASH_ENV=/tmp/bash-env', "bash -c 'echo $LEFT_ENV'"
    ),
    Attack(
        "an exported function", "left_function() { echo $1; }; export -f left_function", "bash -c 'left_function found'"
    ),
    Attack("an exported variable", "export LEFT_VARIABLE=$token", "printenv LEFT_VARIABLE"),
    Attack("a trap", "trap 'true left' USR1", "trap -p USR1"),
    Attack(
        "the path of programs",
        "mkdir -p /tmp/bin; printf '#!/bin/sh\\necho found' > /tmp/bin/left-program; chmod +x /tmp/bin/left-program; PATH=/tmp/bin:$PATH",
        "left-program || /tmp/bin/left-program",
    ),
    Attack("a remembered program", "hash -p /usr/bin/true left-hash", "hash -t left-hash"),
    Attack("the file mode mask", "umask 0137", "[[ $(umask) == 0137 ]] && echo 0137"),
    Attack("the limit of processes' files", "ulimit -S -n 177", "[[ $(ulimit -S -n) == 177 ]] && echo 177"),
    Attack("the limit of the size of files", "ulimit -S -f 177000", "[[ $(ulimit -S -f) == 177000 ]] && echo 177000"),
    Attack("the priority", "renice -n 17 $$ > /dev/null", "[[ $(nice) == 17 ]] && echo 17"),
    Attack("an open descriptor", "exec 9> /tmp/opened; echo $token >&9", "cat /proc/self/fd/9"),
    Attack(
        "a link in the place of a file of the next run",
        "ln -s /var/tmp/$mark.link /tmp/linked",
        "[[ -L /tmp/linked ]] && echo linked",
    ),
    Attack(
        "a folder without permissions",
        "mkdir -p /tmp/closed/inner; chmod 000 /tmp/closed",
        "[[ -e /tmp/closed ]] && echo closed",
    ),
    Attack(
        "a deep tree of folders", "mkdir -p /tmp/deep/$(printf 'd/%.0s' {1..300})", "[[ -e /tmp/deep ]] && echo deep"
    ),
    Attempt("the project's key", "wc -c < $place", "own_file key", "echo $key_file"),
    Attempt("the project's database", "wc -c < $place", "own_file database", "echo $project/project.db"),
    Attempt(
        "the list of the project's folder",
        "ls $place | grep -e own -e key -e project.db",
        "own_folder project",
        "echo $project",
    ),
    Attempt("writing in the workflow's folder", "writes $place", "own_folder written", "echo $folder"),
    Attempt("writing in /var/tmp", "writes $place", "own_folder written", "echo /var/tmp"),
    Attempt("the environment of the server", "wc -c < /proc/$place/environ", "echo $$", "echo $server"),
    Attempt(
        "the memory of the server",
        "head -c 1 /proc/$place/maps | wc -c | grep 1 && : < /proc/$place/mem && echo opened",
        "echo $$",
        "echo $server",
    ),
    Attempt("the descriptors of the server", "ls /proc/$place/fd", "echo $$", "echo $server"),
    Attempt("a signal to the server", "kill -0 $place && echo sent", "echo $$", "echo $server"),
    Attempt("the priority of the server", "ps -o ni= -p $place", "echo $$", "echo $server"),
]

GO_ATTACKS: list[Attack | Attempt] = [
    Attack(
        "a daemon",
        """
        daemon("sleep", run.Mark+"go", run.Token)
        return ""
        """,
        'processes(run.Mark + "go")',
        group="daemons later",
    ),
    Attack(
        "a daemon that writes files",
        """
        daemon("write", "/tmp/go-written", run.Token, run.Mark)
        return ""
        """,
        'read("/tmp/go-written")',
        group="daemons later",
    ),
    Attack(
        "a daemon on a port",
        """
        daemon("tcp", run.Ports[0], run.Token, run.Mark)
        return ""
        """,
        'answers("tcp", run.Ports[0])',
        group="daemons later",
    ),
    Attack(
        "a daemon on an abstract socket",
        """
        daemon("unix", "@"+run.Mark+"go", run.Token, run.Mark)
        return ""
        """,
        'answers("unix", "@"+run.Mark+"go")',
        group="daemons later",
    ),
    Attack("a file in /tmp", 'return ownFile("/tmp/go-file")', 'read("/tmp/go-file")'),
    Attack(
        "a file in /dev/shm", 'return ownFile("/dev/shm/" + run.Mark + "go")', 'read("/dev/shm/" + run.Mark + "go")'
    ),
    Attack(
        "shared memory of System V",
        """
        syscall.Syscall(syscall.SYS_SHMGET, uintptr(run.Key), 64, 0o1666)
        return ""
        """,
        """
        if _, _, problem := syscall.Syscall(syscall.SYS_SHMGET, uintptr(run.Key), 64, 0); problem != 0 {
            return ""
        }
        return "found"
        """,
    ),
    Attack(
        "a variable",
        """
        must(os.Setenv("LEFT_GO", run.Token))
        return ""
        """,
        'os.Getenv("LEFT_GO")',
    ),
    Attack(
        "the file mode mask",
        """
        syscall.Umask(0o137)
        return ""
        """,
        """
        if syscall.Umask(0o137) != 0o137 {
            return ""
        }
        return "137"
        """,
    ),
    Attempt(
        "the compiled programs",
        "writes(run.Place, run.Mark)",
        'ownFolder("written")',
        "filepath.Dir(must2(os.Executable()))",
    ),
    Attempt("writing in /var/tmp", "writes(run.Place, run.Mark)", 'ownFolder("written")', '"/var/tmp"'),
    Attempt(
        "the cache of the compiler", "writes(run.Place, run.Mark)", 'ownFolder("written")', 'run.Project + "/cache/go"'
    ),
    Attempt("the project's key", "read(run.Place)[:1]", 'ownFile("key")', "run.KeyFile"),
    Attempt(
        "the environment of the server",
        'read("/proc/" + run.Place + "/environ")[:1]',
        "strconv.Itoa(os.Getpid())",
        "strconv.Itoa(run.Server)",
    ),
    Attempt(
        "a signal to the server",
        """
        if must(syscall.Kill(must2(strconv.Atoi(run.Place)), 0)) {
            return "sent"
        }
        return ""
        """,
        "strconv.Itoa(os.Getpid())",
        "strconv.Itoa(run.Server)",
    ),
]


class TestBash(AttackTests):
    """Attacks of Bash steps."""

    language = BASH
    attacks = BASH_ATTACKS


class TestGo(AttackTests):
    """Attacks of Go steps."""

    language = GO
    attacks = GO_ATTACKS
