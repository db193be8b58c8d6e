#!/bin/sh
# Airlock on Cloud Run, in two commands:
#
#   deploy/cloud-run/deploy.sh set-up      once, and again whenever a file here has changed
#   deploy/cloud-run/deploy.sh release     each new version: builds the image, migrates, starts it
#
# Set PROJECT and REGION. Set-up makes accounts, buckets, topics, secrets and the roles in roles.txt; what is there stays
# as it is. It needs a PostgreSQL of Cloud SQL: SQL (project:region:instance) and, the first time, DATABASE_URL in the
# environment (postgresql://USER:PASSWORD@/NAME?host=/cloudsql/PROJECT:REGION:INSTANCE), which becomes a secret.
set -eu
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

: "${PROJECT:?the project to deploy to}" "${REGION:?the region, europe-west1 for example}"
: "${SQL:?the Cloud SQL instance: project:region:instance}"
REPOSITORY=$REGION-docker.pkg.dev/$PROJECT/airlock
IMAGE=${IMAGE:-$REPOSITORY/airlock:$(git rev-parse --short HEAD 2>/dev/null || date -u +%Y%m%d%H%M%S)}
NUMBER=${NUMBER:-$(gcloud projects describe "$PROJECT" --format='value(projectNumber)')}
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

g() { gcloud --project="$PROJECT" --quiet "$@"; }

# A file of this folder with its variables filled in.
filled() {
    sed -e "s|\${PROJECT}|$PROJECT|g" -e "s|\${REGION}|$REGION|g" -e "s|\${NUMBER}|$NUMBER|g" \
        -e "s|\${SQL}|$SQL|g" -e "s|\${IMAGE}|$IMAGE|g" "$1" >"$work/$1"
    printf '%s' "$work/$1"
}

# --- set-up -----------------------------------------------------------------------------------------------------

# The second command, where the first does not find it.
unless() {
    look=$1
    shift
    # shellcheck disable=SC2086  # words of a command
    g $look >/dev/null 2>&1 || g "$@"
}

member() {
    case $1 in
    @gcp-sa-pubsub) printf 'serviceAccount:service-%s@gcp-sa-pubsub.iam.gserviceaccount.com' "$NUMBER" ;;
    @gs-project-accounts) printf 'serviceAccount:service-%s@gs-project-accounts.iam.gserviceaccount.com' "$NUMBER" ;;
    *) printf 'serviceAccount:%s@%s.iam.gserviceaccount.com' "$1" "$PROJECT" ;;
    esac
}

grant() {
    kind=$1 resource=$2 who=$(member "$3") role=$4
    case $kind in
    bucket) g storage buckets add-iam-policy-binding "gs://$PROJECT-$resource" --member="$who" --role="$role" ;;
    topic) g pubsub topics add-iam-policy-binding "$resource" --member="$who" --role="$role" ;;
    subscription) g pubsub subscriptions add-iam-policy-binding "$resource" --member="$who" --role="$role" ;;
    secret) g secrets add-iam-policy-binding "$resource" --member="$who" --role="$role" ;;
    account)
        g iam service-accounts add-iam-policy-binding "$resource@$PROJECT.iam.gserviceaccount.com" \
            --member="$who" --role="$role"
        ;;
    job) g run jobs add-iam-policy-binding "$resource" --region="$REGION" --member="$who" --role="$role" ;;
    project) g projects add-iam-policy-binding "$PROJECT" --member="$who" --role="$role" --condition=None ;;
    *) stop "roles.txt: what is a $kind?" ;;
    esac >/dev/null
}

# A secret with this file's content; one that is there gets a new version if it is to follow the file.
secret() {
    if ! g secrets describe "$1" >/dev/null 2>&1; then
        g secrets create "$1" --replication-policy=automatic --data-file="$2"
    elif [ "${3:-}" = follow ] && ! g secrets versions access latest --secret="$1" | cmp -s - "$2"; then
        g secrets versions add "$1" --data-file="$2"
    fi
}

set_up() {
    g services enable run.googleapis.com pubsub.googleapis.com storage.googleapis.com secretmanager.googleapis.com \
        cloudscheduler.googleapis.com sqladmin.googleapis.com artifactregistry.googleapis.com \
        cloudbuild.googleapis.com iamcredentials.googleapis.com
    unless "artifacts repositories describe airlock --location=$REGION" \
        artifacts repositories create airlock --location="$REGION" --repository-format=docker

    for account in airlock-api airlock-worker airlock-migrate airlock-signatures airlock-push airlock-clock; do
        unless "iam service-accounts describe $account@$PROJECT.iam.gserviceaccount.com" \
            iam service-accounts create "$account"
    done

    for bucket in airlock-quarantine airlock-serving airlock-signatures; do
        unless "storage buckets describe gs://$PROJECT-$bucket" \
            storage buckets create "gs://$PROJECT-$bucket" --location="$REGION" --uniform-bucket-level-access \
            --public-access-prevention
    done

    for topic in airlock-run airlock-landed airlock-dead; do
        unless "pubsub topics describe $topic" pubsub topics create "$topic"
    done
    # What nobody reads would be gone at once.
    unless "pubsub subscriptions describe airlock-dead" \
        pubsub subscriptions create airlock-dead --topic=airlock-dead --message-retention-duration=7d \
        --expiration-period=never
    for name in run landed; do
        flags=$(filled "$name.subscription.yaml")
        if g pubsub subscriptions describe "airlock-$name" >/dev/null 2>&1; then
            g pubsub subscriptions update "airlock-$name" --flags-file="$flags"
        else
            g pubsub subscriptions create "airlock-$name" --topic="airlock-$name" --flags-file="$flags"
        fi
    done
    g storage service-agent >/dev/null # makes it, where nobody has needed it yet

    if ! g secrets describe airlock-database-url >/dev/null 2>&1; then
        : "${DATABASE_URL:?the first time, the URL of the database}"
        printf '%s' "$DATABASE_URL" >"$work/database-url"
        secret airlock-database-url "$work/database-url"
    fi
    openssl genpkey -algorithm ed25519 -out "$work/receipt.pem"
    secret airlock-receipt-key "$work/receipt.pem"
    secret airlock-clamd-conf ../compose/clamd.conf follow

    deploy_job signatures # its role needs it
    sed -e 's/#.*//' -e '/^ *$/d' roles.txt | while read -r kind resource who role; do
        say "  $who: $role on $kind $resource"
        grant "$kind" "$resource" "$who" "$role"
    done
    # Now that Cloud Storage may publish there.
    g storage buckets notifications list "gs://$PROJECT-airlock-quarantine" | grep -q topics/airlock-landed ||
        g storage buckets notifications create "gs://$PROJECT-airlock-quarantine" \
            --topic=airlock-landed --event-types=OBJECT_FINALIZE --payload-format=json

    for name in sweep reconcile signatures; do
        flags=$(filled "$name.schedule.yaml")
        if g scheduler jobs describe "airlock-$name" --location="$REGION" >/dev/null 2>&1; then
            g scheduler jobs update http "airlock-$name" --flags-file="$flags"
        else
            g scheduler jobs create http "airlock-$name" --flags-file="$flags"
        fi
    done
    g run jobs execute airlock-signatures --region="$REGION" --wait
    say "Set up. Next: $0 release"
}

# --- release ----------------------------------------------------------------------------------------------------

deploy_job() { g run jobs replace "$(filled "$1.job.yaml")" --region="$REGION"; }

release() {
    (cd ../.. && g builds submit --tag="$IMAGE" .)
    deploy_job migrate
    g run jobs execute airlock-migrate --region="$REGION" --wait
    for name in worker api; do
        g run services replace "$(filled "$name.service.yaml")" --region="$REGION"
    done
    say "Released $IMAGE: https://airlock-api-$NUMBER.$REGION.run.app"
}

case ${1:-} in
set-up) set_up ;;
release) release ;;
*) stop "Usage: $0 set-up | release" ;;
esac
