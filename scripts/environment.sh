# Sourced by the other scripts: Debian's packages that they need, and the virtual environment.
# shellcheck shell=bash

export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin # mkfs and its like, which an ordinary user's path lacks
project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$project/.venv

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# usage ARGUMENT...: where one is --help, print what the script's first comment says, and exit.
usage() {
    [[ " $* " != *" --help "* && " $* " != *" -h "* ]] || {
        sed --quiet '2,/^[^#]/s/^# \{0,1\}//p' -- "$0"
        exit
    }
}

# quoted WORD...: print them as a shell reads them back.
quoted() {
    local words
    printf -v words ' %q' "$@"
    printf '%s\n' "${words# }"
}

# as_root COMMAND...: run it as root, by sudo where this is somebody else.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo -- "$@"
    else
        sudo --non-interactive -- "$@" # nobody is there to type a password
    fi
}

# install_missing PROGRAM=PACKAGE...: install the packages whose programs are not there; in place of
# a program, the path of anything else. Where that cannot be done it says what is missing and
# returns 1.
install_missing() {
    local pair packages=()
    for pair; do
        [[ $pair = /* && -e ${pair%%=*} ]] ||
            [ -d "${pair%%=*}" ] || command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here; please install what Debian calls: $*"
        return 1
    elif [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        say "neither root nor sudo; please run as root: apt-get install $*"
        return 1
    fi
    local package known=() unknown=()
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null >&2 ||
        say "not all package lists could be brought up to date"
    for package; do # apt-get would install none if it did not know one
        if apt-cache show -- "$package" >/dev/null 2>&1; then
            known+=("$package")
        else
            unknown+=("$package")
        fi
    done
    if [ ${#known[@]} != 0 ]; then
        say "installing ${known[*]}"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq --no-install-recommends \
            -o DPkg::Lock::Timeout=300 install "${known[@]}" </dev/null >/dev/null || {
            say "could not be installed: ${known[*]}"
            return 1
        }
    fi
    [ ${#unknown[@]} = 0 ] || {
        say "no such package here: ${unknown[*]}"
        return 1
    }
}

# find_python: print the first Python that is new enough.
find_python() {
    local python
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

# prepare_venv [GROUP]: have the project in its virtual environment, with what it needs and, where
# one is given, what a dependency group of pyproject.toml lists and "reflayer serve" needs; then it
# fails, too, where the part in C cannot be compiled.
prepare_venv() {
    local group=${1:-} stamp="$venv/prepared-${1:-plain}" linux=$project/src/reflayer/linux
    local wanted python version headers
    # It names the files: a moved project is made anew.
    wanted=$(sha256sum "$project/pyproject.toml" "$project/setup.py" "$linux"/*.[ch])
    if [ "$(cat -- "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c ''; then
        return
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        install_missing python3=python3 || true
        python=$(find_python) || fail "Python 3.11 or newer is needed; PYTHON may name it"
        if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            install_packages "python$version-venv" ||
                fail "without python$version-venv there is no virtual environment"
        fi
        say "making $venv"
        "$python" -m venv --clear "$venv"
    fi
    headers=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("INCLUDEPY"))')
    install_missing gcc=gcc /usr/include/stdlib.h=libc6-dev \
        "$headers/Python.h=lib${headers##*/}-dev" || true
    rm -f "$linux"/_names.*.so
    say "installing the project into $venv"
    # Dependency groups came with pip 25.1.
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet \
        --editable "$project${group:+[containerd,docker]}" \
        ${group:+--group "$project/pyproject.toml:$group"}
    if ! [ -e "$linux"/_names.abi3.so ]; then
        [ -z "$group" ] || fail "the part in C does not compile: pip --verbose install . tells why"
        say "the part in C does not compile here: Python does its work, and takes longer"
    fi
    printf '%s\n' "$wanted" >"$stamp"
}
