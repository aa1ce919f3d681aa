# Installs these Debian packages as root, and otherwise says what to install. For `source`.
install_packages() {
  [ "$#" -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  else
    echo "missing: $*; install these packages, for example: sudo apt-get install $*" >&2
    exit 1
  fi
}
