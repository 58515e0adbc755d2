#!/bin/sh
# Makes etcd's roles for roster. docs/ETCD-ROLES.md says what each may do, and how to give
# them to users.
#
#   roles.sh fleet                  the roles roster-node and roster-operator
#   roles.sh node ID                the role roster-node-ID, for the node of that --node-id
#                                   alone: it reads, and writes nothing but its presence
#   roles.sh team NAME [KIND...]    the role roster-team-NAME, which may write definitions
#                                   below KIND/NAME/ and read those of all
#
# KIND is backends, probes, directors, routes, health or certificates; all but the last
# unless some are named. What is there already stays, so it may be run again.
#
# etcdctl is told by its own variables where etcd is and who you are: ETCDCTL_ENDPOINTS,
# ETCDCTL_USER, ETCDCTL_CACERT and so on. ETCDCTL names another program for it, and
# ROSTER_PREFIX another prefix than /roster/.
set -eu

etcdctl=${ETCDCTL:-etcdctl}
prefix=${ROSTER_PREFIX:-/roster/}
export ETCDCTL_API=3

fail() {
	echo "roles.sh: $*" >&2
	exit 2
}

# role makes a role, if it is not there.
role() {
	"$etcdctl" role get "$1" >/dev/null 2>&1 || "$etcdctl" role add "$1"
}

# below ROLE PERMISSION KEY grants all that begins with a key.
below() {
	"$etcdctl" role grant-permission --prefix=true "$1" "$2" "$3" >/dev/null
}

case $prefix in
/*/) ;;
*) fail "ROSTER_PREFIX is \"$prefix\", want it to begin and end with /" ;;
esac
nodes=${prefix%/}-nodes/
members=${prefix%/}-members/
owners=${prefix%/}-owners/

case ${1-} in
fleet)
	[ $# -eq 1 ] || fail "fleet takes no arguments"
	# A node reads every definition, keys of certificates among them, and writes what the
	# fleet has to know of it. It makes the secret where there is none.
	role roster-node
	below roster-node read "$prefix"
	below roster-node readwrite "$nodes"
	below roster-node readwrite "$members"
	"$etcdctl" role grant-permission roster-node readwrite "${prefix}secret" >/dev/null

	role roster-operator
	below roster-operator readwrite "$prefix"
	below roster-operator readwrite "$nodes"
	below roster-operator readwrite "$members"
	below roster-operator readwrite "$owners"
	echo "roles: roster-node, roster-operator"
	;;
node)
	[ $# -eq 2 ] || fail "node takes an id"
	printf %s "$2" | LC_ALL=C grep -Eqx '[A-Za-z0-9_.:[-]([]A-Za-z0-9_.:/[-]*[]A-Za-z0-9_.:-])?' ||
		fail "the node's id is \"$2\", want letters, digits, _ . : - and brackets; / within"
	name=roster-node-$2
	role "$name"
	below "$name" read "$prefix"
	below "$name" read "$nodes" # its peers
	below "$name" read "$members"
	below "$name" readwrite "$nodes$2/"
	below "$name" readwrite "$members$2/"
	echo "role: $name"
	;;
team)
	[ $# -ge 2 ] || fail "team takes a name, and perhaps kinds"
	team=$2
	shift 2
	# The name is a part of keys: a / at its end would be one too many, and .. is nothing.
	printf %s "$team" | LC_ALL=C grep -Eqx '[A-Za-z][A-Za-z0-9_.-]*(/[A-Za-z][A-Za-z0-9_.-]*)*' ||
		fail "the team's name is \"$team\", want letters, digits, _ . and -, a letter first; segments are joined by /"
	[ $# -gt 0 ] || set -- backends probes directors routes health
	for kind in "$@"; do
		case $kind in
		backends | probes | directors | routes | health | certificates) ;;
		*) fail "\"$kind\" is not a kind: want backends, probes, directors, routes, health or certificates" ;;
		esac
	done
	name=roster-team-$team
	role "$name"
	for kind in "$@"; do
		below "$name" readwrite "$prefix$kind/$team/"
	done
	# A command looks at what has the name already, and at what the nodes understand.
	for kind in backends probes directors routes health; do
		below "$name" read "$prefix$kind/"
	done
	below "$name" read "$nodes"
	below "$name" read "$members"
	# roster apply --owner NAME, or NAME/..., notes what is the owner's.
	"$etcdctl" role grant-permission "$name" readwrite "$owners$team" >/dev/null
	below "$name" readwrite "$owners$team/"
	echo "role: $name"
	;;
*)
	fail "want fleet, node ID, or team NAME [KIND...]"
	;;
esac
