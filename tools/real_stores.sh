#!/usr/bin/env bash
# Runs a command with an object store on this machine: tools/real_stores.sh NAME COMMAND...
# NAME: `ceph` (as root; Debian packages ceph-mon, ceph-osd and radosgw; data in memory), `localbucket` or `nanio` (S3; PyPI),
# `gcs` (PyPI: gcp-storage-emulator) or `azurite` (npm; AZURITE: the command, if it is not azurite-blob).
# DETECTOR_STORE is the URL of an empty bucket. For example:
#   tools/real_stores.sh azurite python -m pytest tests/test_real_stores.py
#   tools/real_stores.sh ceph bash -c 'detector train --data datasets/bccd --set steps=20 --out $DETECTOR_STORE/run'
set -euo pipefail
name=$1
shift
dir=$(mktemp -d)
trap 'kill $(cat "$dir"/*.pid) 2>/dev/null; sleep 1; rm -rf "$dir"' EXIT

start() { # COMMAND...: in the background
  "$@" >"$dir/log" 2>&1 &
  echo $! >"$dir/server.pid"
}

s3() { # PORT
  export DETECTOR_STORE=s3://bucket AWS_ENDPOINT_URL=http://127.0.0.1:$1 AWS_ACCESS_KEY_ID=detector
  export AWS_SECRET_ACCESS_KEY=detector-secret AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
}

ceph_cluster() {
  mkdir "$dir"/{mon,osd,rgw}
  local address='[v2:127.0.0.1:6800,v1:127.0.0.1:6801]' fsid uuid
  fsid=$(cat /proc/sys/kernel/random/uuid) uuid=$(cat /proc/sys/kernel/random/uuid)
  export CEPH_CONF=$dir/ceph.conf
  cat >"$CEPH_CONF" <<C
[global]
fsid = $fsid
mon host = $address
public addr = 127.0.0.1
public network = 127.0.0.0/8
keyring = $dir/keyring
mon allow pool size one = true
osd pool default size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd class update on start = false
pid file = $dir/\$type.pid
log file = $dir/\$type.log
admin socket = $dir/\$type.\$id.asok
mon data = $dir/mon
osd data = $dir/osd
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:7480
C
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
  monmaptool --create --addv a "$address" --fsid "$fsid" "$dir/monmap"
  ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring"
  ceph-mon -i a
  timeout 60 ceph osd new "$uuid"
  timeout 60 ceph auth add osd.0 -i "$dir/keyring"
  ceph-osd -i 0 --mkfs --osd-uuid "$uuid"
  ceph-osd -i 0
  timeout 60 radosgw-admin user create --uid=detector --display-name=detector \
    --access-key=detector --secret-key=detector-secret
  radosgw -n client.admin
}

case $name in
  ceph) ceph_cluster >"$dir/setup" 2>&1 || { tail "$dir/setup"; exit 1; }; s3 7480 ;;
  localbucket) mkdir "$dir/data"; start localbucket "$dir/data" --port 9200; s3 9200 ;;
  nanio)
    export NANIO_ACCESS_KEY=detector NANIO_SECRET_KEY=detector-secret
    start nanio serve --data-dir "$dir/data" --host 127.0.0.1 --port 9100
    s3 9100
    ;;
  gcs)
    start gcp-storage-emulator start --host 127.0.0.1 --port 9023 --in-memory
    # Else gcsfs asks Google for credentials and for the kind of the bucket.
    export FSSPEC_GCS_TOKEN=anon
    export STORAGE_EMULATOR_HOST=http://127.0.0.1:9023 DETECTOR_STORE=gs://bucket GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false
    ;;
  azurite)
    # The key is the one that all installations of Azurite have.
    start ${AZURITE:-azurite-blob} --blobHost 127.0.0.1 --blobPort 10000 --inMemoryPersistence --disableTelemetry \
      --skipApiVersionCheck
    key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==
    AZURE_STORAGE_CONNECTION_STRING="DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=$key;"
    AZURE_STORAGE_CONNECTION_STRING+="BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    export AZURE_STORAGE_CONNECTION_STRING DETECTOR_STORE=az://bucket
    ;;
  *) echo "usage: tools/real_stores.sh ceph|localbucket|nanio|gcs|azurite COMMAND..."; exit 2 ;;
esac
for try in {1..30}; do
  python -c "import fsspec, os; fsspec.core.url_to_fs(os.environ['DETECTOR_STORE'])[0].mkdir('bucket')" \
    >"$dir/mkdir" 2>&1 && break
  [ "$try" -lt 30 ] || { cat "$dir/mkdir" "$dir/log"; exit 1; }
  sleep 1
done
"$@"
