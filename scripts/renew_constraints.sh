#!/bin/sh
# Resolve the newest versions that work together, for Python 3.10 and later, into the two constraints files.
set -eu

resolve() { # name of the file, what it is for, the dependency groups, then the versions that are fixed
    file=$1 purpose=$2 groups=$3
    shift 3
    fixed=$(mktemp)
    printf '%s\n' "$@" >"$fixed"
    {
        echo "# Pinned versions for development on $purpose. 'make constraints' renews this file."
        # shellcheck disable=SC2086 # the groups are several words
        uv pip compile --quiet pyproject.toml --extra sandbox $groups --constraint "$fixed" --universal \
            --python-version 3.10 --no-header --no-annotate --no-emit-index-url --no-emit-find-links
    } >"$file.new"
    mv "$file.new" "$file"
    rm "$fixed"
}

resolve constraints.txt "the newest Airflow" "--group dev --group bench --group docs" apache-airflow==3.3.2
# What Airflow 3.0.6 itself was released with: later ones of these break its execution API.
resolve constraints-airflow-3.0.txt "the oldest supported Airflow" "--group dev" apache-airflow==3.0.6 \
    fastapi==0.116.1 starlette==0.47.3 cadwyn==5.4.3 pydantic==2.11.7
