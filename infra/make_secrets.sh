#!/bin/sh
# Fresh random secrets as files, for compose and for Kubernetes alike: sh infra/make_secrets.sh FOLDER
#
# What is there stays as it is, so your own values can be put there first. The folder is closed to other users; the
# files in it can be read by all, because a container's user is not the one who starts it.
set -eu
folder="${1:?name the folder: infra/compose/secrets or infra/kubernetes/secrets}"
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

write() { # write FILE: standard input goes there, unless the file is there
    [ -e "$1" ] && return
    cat > "$1"
    chmod 444 "$1"
    echo "made $folder/$1"
}

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

for name in postgres-password redis-password ray-token grafana-password object-store-password; do
    random | write "$name"
done
printf mcb | write object-store-user
write object-store-credentials <<END
[default]
aws_access_key_id = $(cat object-store-user)
aws_secret_access_key = $(cat object-store-password)
END
