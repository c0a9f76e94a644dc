"""``reflayer completion``: what bash, zsh and fish complete a command line by.

Made from the parser, as a script that knows every command and option by itself: only names of
containers, images and checkpoints are asked of the program.
"""

from __future__ import annotations

import re
from argparse import REMAINDER, SUPPRESS
from shlex import quote

from reflayer.cli.arguments import option, takes
from reflayer.cli.commands import COMMANDS
from reflayer.cli.program import whole_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action, ArgumentParser, Namespace
    from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
_NAMES = ("containers", "images", "either", "checkpoints", "states")
_MANY = ("+", "*", REMAINDER)
_FILES = ("FILE", "PATH", "SRC", "DST", "DEST")
_LONGEST = 60  # characters of what a shell tells of an option

_LIST = {
    "containers": "ps 2>/dev/null | awk -F '   +' 'NR > 1 { print $2 }'",
    "images": "images 2>/dev/null | awk -F '   +' 'NR > 1 && $1 != \"<none>\" { print $1 }'",
    "checkpoints": "checkpoints -q",  # and the container's name
}


@takes(option("shell SHELL", "bash, zsh or fish", choices=SHELLS))
def completion(arguments: Namespace) -> int:
    """Print what the shell completes reflayer's command lines by.

      source <(reflayer completion bash)           in ~/.bashrc, or ~/.zshrc with zsh
      reflayer completion fish | source            in ~/.config/fish/config.fish

    Packages bring it as a file that the shell finds by itself.
    """
    print(completion_script(arguments.shell), end="")
    return 0


def completion_script(shell: str) -> str:
    """The script for a shell, one of ``SHELLS``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def arguments_of(parser: ArgumentParser) -> tuple[list[Action], list[Action]]:
    """The positional arguments of a command, and its options; what takes a command is neither."""
    actions = [one for one in parser._actions if one.help != SUPPRESS and not _is_commands(one)]
    return (
        [one for one in actions if not one.option_strings],
        [one for one in actions if one.option_strings],
    )


def summary(action: Action) -> str:
    """What an option is for, in a few words."""
    text = re.split(r"[;.] |, by default| \(", action.help or "")[0]
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(" ")[0]


def _is_commands(action: Action) -> bool:
    return action.dest == "command"


def _takes_value(action: Action) -> bool:
    return action.nargs is None or not action.option_strings


def _kind(action: Action) -> str:
    """What its value is completed by: ``@KIND``, or words; empty for what nobody knows."""
    if action.choices:
        return " ".join(map(str, action.choices))
    if names := getattr(action, "completed_by", None):
        return f"@{names}"
    if action.nargs == REMAINDER:
        return "@commands"
    if action.metavar == "DIR":
        return "@folders"
    return "@files" if action.metavar in _FILES else ""


def _commands() -> Iterator[tuple[str, list[Action], list[Action]]]:
    """Each command, with its positional arguments and options; the program itself is ``""``."""
    program, commands = whole_parser()
    yield ("", *arguments_of(program))
    for name, parser in commands.items():
        yield (name, *arguments_of(parser))


_BASH = """\
# What bash completes reflayer's command lines by: made by "reflayer completion bash".
_reflayer_of() {
    case $1 in
%(commands)s
    esac
}

_reflayer_names() {
    case $1 in
    containers) reflayer "${root[@]}" %(containers)s ;;
    images) reflayer "${root[@]}" %(images)s ;;
    either) _reflayer_names containers; _reflayer_names images ;;
    checkpoints) reflayer "${root[@]}" %(checkpoints)s "$first" 2>/dev/null ;;
    states)
        if [[ $current == *@* ]]; then
            local first=${current%%%%@*} name
            while read -r name; do
                echo "$first@$name"
            done < <(_reflayer_names checkpoints)
        else
            _reflayer_names containers
        fi
        ;;
    esac
}

_reflayer() {
    local line=${COMP_LINE:0:COMP_POINT} current='' before='' command='' expected='' kind=''
    COMPREPLY=()
    local words word options last first='' count=0 root=() kinds=()
    local -A values=()
    read -ra words <<<"$line"
    if [[ $line != *[[:space:]] ]]; then
        current=${words[-1]}
        unset 'words[-1]'
    fi
    _reflayer_of ''
    for word in "${words[@]:1}"; do
        if [[ -n $expected ]]; then
            [[ $expected != --root ]] || root=(--root "$word")
            expected=''
        elif [[ -n ${values[$word]+set} ]]; then
            expected=$word
        elif [[ $word != -?* && -z $command ]]; then
            command=$word kinds=()
            _reflayer_of "$command"
        elif [[ $word != -?* ]]; then
            [[ $count != 0 ]] || first=$word
            count=$((count + 1))
        fi
    done
    if [[ -z $expected && $current == --*=* ]]; then
        expected=${current%%%%=*} before=${current%%%%=*}= current=${current#*=}
    fi
    if [[ -n $expected ]]; then
        kind=${values[$expected]-}
    elif [[ $current == -* ]]; then
        kind=$options
    elif [[ ${#kinds[@]} != 0 ]]; then
        last=$((${#kinds[@]} - 1))
        kind=${kinds[count < last ? count : last]}
    fi
    local IFS=$'\\n'
    case $kind in
    @folders) compopt -o filenames; COMPREPLY=($(compgen -d -- "$current")) ;;
    @files) compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")) ;;
    @commands) compopt -o filenames; COMPREPLY=($(compgen -c -f -- "$current")) ;;
    @*) # compgen would do what a $() in a name says
        while read -r word; do
            [[ $word != "$current"* ]] || COMPREPLY+=("$(printf %%q "$word")")
        done < <(_reflayer_names "${kind#@}")
        ;;
    *) COMPREPLY=($(compgen -W "${kind// /$IFS}" -- "$current")) ;;
    esac
    # What stands before the last of these is there already; an @ itself is taken as new.
    before=$before$current
    [[ $COMP_WORDBREAKS == *:* ]] || return 0
    [[ $COMP_WORDBREAKS == *@* ]] && last='*[:=@]' || last='*[:=]'
    before=${before%%"${before##$last}"}
    before=${before%%@}
    COMPREPLY=("${COMPREPLY[@]#"${before#--*=}"}")
}
complete -F _reflayer reflayer
"""


def _bash() -> str:
    cases = []
    for name, positional, options in _commands():
        flags = " ".join(flag for one in options for flag in one.option_strings)
        values = " ".join(
            f"[{flag}]={quote(_kind(one))}"
            for one in options
            if _takes_value(one)
            for flag in one.option_strings
        )
        kinds = [_kind(one) for one in positional]
        if positional and positional[-1].nargs not in _MANY:
            kinds.append("")  # nothing follows
        words = " ".join(map(quote, kinds if name else [" ".join(COMMANDS)]))
        cases.append(
            f"    {name or quote('')})\n        options={quote(flags)}\n"
            f"        values=({values})\n        kinds=({words})\n        ;;"
        )
    return _BASH % {**_LIST, "commands": "\n".join(cases)}


_ZSH = """\
#compdef reflayer
# What zsh completes reflayer's command lines by: made by "reflayer completion zsh".
_reflayer_ask() {
    reflayer $reflayer_root ${opt_args[--root]:+--root} ${(Q)opt_args[--root]} "$@"
}

_reflayer_containers() {
    local -a names=(${(f)"$(_reflayer_ask %(containers)s)"})
    compadd -a names
}

_reflayer_images() {
    local -a names=(${(f)"$(_reflayer_ask %(images)s)"})
    compadd -a names
}

_reflayer_checkpoints() {
    local -a names=(${(f)"$(_reflayer_ask %(checkpoints)s $line[1] 2>/dev/null)"})
    compadd -a names
}

_reflayer_states() {
    if [[ $PREFIX == *@* ]]; then
        compset -P '*@'
        line=($IPREFIX[1,-2]) _reflayer_checkpoints
    else
        _reflayer_containers
    fi
}

_reflayer_either() {
    _reflayer_containers
    _reflayer_images
}

_reflayer() {
    local curcontext=$curcontext state line
    local -a reflayer_root commands
    local -A opt_args
    _arguments -C -A '-*' %(options)s '1:command:->command' '*::argument:->argument'
    [[ -z $opt_args[--root] ]] || reflayer_root=(--root ${(Q)opt_args[--root]})
    case $state in
    command)
        commands=(
%(names)s
        )
        _describe command commands
        ;;
    argument)
        case $words[1] in
%(commands)s
        esac
        ;;
    esac
}

if [[ $funcstack[1] == _reflayer ]]; then
    _reflayer "$@"
else
    compdef _reflayer reflayer
fi
"""


def _zsh() -> str:
    cases, own = [], ""
    for name, positional, options in _commands():
        specs = [_zsh_option(one) for one in options]
        if not name:
            own = " ".join(specs)
            continue
        for number, one in enumerate(positional, 1):
            place = "*" if one.nargs in _MANY else str(number)
            optional = ":" if one.nargs == "?" else ""
            what = str(one.metavar or one.dest).lower().partition("[")[0]
            specs.append(quote(f"{place}:{optional}{what}:{_zsh_action(one)}"))
        lines = " \\\n                ".join(specs)
        cases.append(f"        {name})\n            _arguments -s \\\n                {lines}")
    listed = [f"            {quote(f'{name}:{COMMANDS[name][1]}')}" for name in COMMANDS]
    return _ZSH % {
        **_LIST,
        "options": own,
        "names": "\n".join(listed),
        "commands": "\n            ;;\n".join(cases) + "\n            ;;",
    }


def _zsh_option(action: Action) -> str:
    told = re.sub(r"([\[\]:\\])", r"\\\1", summary(action))
    value = f":{str(action.metavar or action.dest).lower()}:{_zsh_action(action)}"
    rest = quote(f"[{told}]" + (re.sub(r"\[.*?\]", "", value) if _takes_value(action) else ""))
    flags = action.option_strings
    is_equal = "=" if _takes_value(action) else ""
    shown = [flag + is_equal * flag.startswith("--") for flag in flags]
    together = f"{quote('(' + ' '.join(flags) + ')')}{{{','.join(shown)}}}"
    return (together if len(flags) > 1 else shown[0]) + rest


def _zsh_action(action: Action) -> str:
    kind = _kind(action)
    if kind.startswith("@") and kind[1:] in _NAMES:
        return f"_reflayer_{kind[1:]}"
    special = {"@folders": "_files -/", "@files": "_files", "@commands": "_command_names", "": " "}
    return special.get(kind) or f"({kind})"


_FISH = """\
# What fish completes reflayer's command lines by: made by "reflayer completion fish".
function __reflayer_with_value
    switch $argv[1]
%(commands)s
    end
end

function __reflayer_words
    set -g __reflayer_root
    set -g __reflayer_command
    set -g __reflayer_given
    set -l expected
    set -l with_value --root
    for word in (commandline -opc)[2..]
        if test -n "$expected"
            test "$expected" = --root; and set __reflayer_root --root $word
            set expected
        else if contains -- $word $with_value
            set expected $word
        else if string match -qr -- '^-.' $word
            continue
        else if test -z "$__reflayer_command"
            set __reflayer_command $word
            set with_value --root (__reflayer_with_value $word)
        else
            set -a __reflayer_given $word
        end
    end
end

function __reflayer_is
    __reflayer_words
    test "$__reflayer_command" = "$argv[1]"
end

function __reflayer_at
    __reflayer_is $argv[1]; and test (count $__reflayer_given) $argv[2] $argv[3]
end

function __reflayer_containers
    reflayer $__reflayer_root %(containers)s
end

function __reflayer_images
    reflayer $__reflayer_root %(images)s
end

function __reflayer_checkpoints
    set -q argv[1]; or set argv $__reflayer_given[1]
    reflayer $__reflayer_root %(checkpoints)s $argv 2>/dev/null
end

function __reflayer_states
    set -l parts (string split -m 1 @ -- (commandline -ct))
    if set -q parts[2]
        string join \\n $parts[1]@(__reflayer_checkpoints $parts[1])
    else
        __reflayer_containers
    end
end

function __reflayer_either
    __reflayer_containers
    __reflayer_images
end

complete -c reflayer -f
"""


def _fish() -> str:
    lines, cases = [], []
    for name, positional, options in _commands():
        with_value = [flag for one in options if _takes_value(one) for flag in one.option_strings]
        cases.append(f"        case {name or quote('')}\n            string split ' ' -- ")
        cases[-1] += quote(" ".join(with_value))
        start = f"complete -c reflayer -n '__reflayer_is {name}'" if name else _FISH_START
        for action in options:
            flags = [
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in action.option_strings
            ]
            value = _fish_value(action, "-x") if _takes_value(action) else ""
            told = f"-d {_fish_quote(summary(action))}"
            lines.append(" ".join(filter(None, [start, *flags, value, told])) + "\n")
        for number, one in enumerate(positional):
            if value := _fish_value(one, ""):
                place = f"-ge {number}" if one.nargs in _MANY else f"-eq {number}"
                lines.append(f"complete -c reflayer -n '__reflayer_at {name} {place}' {value}\n")
    lines += [
        f"{_FISH_START} -a {name} -d {_fish_quote(told)}\n" for name, (_, told) in COMMANDS.items()
    ]
    return "".join([_FISH % {**_LIST, "commands": "\n".join(cases)}, *lines])


_FISH_START = "complete -c reflayer -n '__reflayer_is \"\"'"


def _fish_value(action: Action, of_option: str) -> str:
    kind = _kind(action)
    if kind.startswith("@") and kind[1:] in _NAMES:
        return f"{of_option} -a '(__reflayer_{kind[1:]})'".strip()
    if kind == "@folders":
        return f"{of_option} -a '(__fish_complete_directories (commandline -ct))'".strip()
    if kind in ("@files", "@commands"):
        return "-rF" if of_option else "-F"
    return f"{of_option} -a {_fish_quote(kind)}".strip() if kind else of_option


def _fish_quote(text: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"
