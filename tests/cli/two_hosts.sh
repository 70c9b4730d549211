# Runs two commands as two hosts: in two network namespaces joined by a cable, where the machine permits those.
#   two_hosts.sh FOLDER PYTHON WORDS...
# The hosts work in FOLDER/0 and FOLDER/1, where `said` has what they print, and `code` how they end.
folder=$1 python=$2; shift 2
host() { # number, address of host 0, words...
    mkdir -p "$folder/$1"; cd "$folder/$1" || exit 1
    "${@:3}" --nnodes 2 --node-rank "$1" --dist-init-addr "$2" > said 2>&1
    echo $? > code
}
export -f host; export folder python
if unshare -rn true 2> /dev/null; then
    exec unshare -rn bash -c '
        unshare -n sleep 600 & other=$!
        until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
        ip link add here type veth peer name there netns $other
        ip link set lo up; ip addr add 10.77.0.1/24 dev here; ip link set here up
        inside="nsenter -t $other -n"
        $inside sh -c "ip link set lo up; ip addr add 10.77.0.2/24 dev there; ip link set there up"
        (host 1 10.77.0.1:20000 $inside "$python" -m pure.cli.main "$@") & second=$!
        (host 0 10.77.0.1:20000 "$python" -m pure.cli.main "$@")
        wait $second; kill $other' two_hosts "$@"
fi
(host 1 127.0.0.1:29876 "$python" -m pure.cli.main "$@") &
(host 0 127.0.0.1:29876 "$python" -m pure.cli.main "$@")
wait
