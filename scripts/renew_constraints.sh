#!/bin/sh
# Resolve the newest versions that work together into the constraints files. Needs uv.
set -eu

resolve() { # file, the Airflow it is for, lowest Python, dependency groups, then versions that are fixed
    file=$1 purpose=$2 python=$3 groups=$4
    shift 4
    fixed=$(mktemp)
    printf '%s\n' "$@" >"$fixed"
    {
        echo "# Pinned versions for development on $purpose. 'make constraints' renews this file."
        # shellcheck disable=SC2086 # the groups are several words
        uv pip compile --quiet pyproject.toml --extra sandbox --extra fonts $groups --constraint "$fixed" --universal \
            --python-version "$python" --prerelease if-necessary-or-explicit \
            --no-header --no-annotate --no-emit-index-url --no-emit-find-links
    } >"$file.new"
    mv "$file.new" "$file"
    rm "$fixed"
}

resolve constraints.txt "the newest Airflow" 3.10 "--group dev --group bench --group docs --group matrix --group mysql" apache-airflow==3.3.2
# Google's packages need older versions of some others than constraints.txt pins.
resolve constraints-stores.txt "the newest Airflow, with every object store" 3.10 "--group dev --group stores" \
    apache-airflow==3.3.2
# What Airflow 3.0.6 itself was released with: later ones of these break its execution API, and its published
# constraints pin the last three.
resolve constraints-airflow-3.0.txt "the oldest supported Airflow" 3.10 "--group dev" apache-airflow==3.0.6 \
    fastapi==0.116.1 starlette==0.47.3 cadwyn==5.4.3 pydantic==2.11.7 \
    apache-airflow-providers-common-compat==1.7.3 aiohttp==3.12.15 yarl==1.20.1
# What Airflow's published constraints pin.
resolve constraints-airflow-3.1.txt "Airflow 3.1" 3.10 "--group dev" apache-airflow==3.1.8 sqlalchemy==1.4.54 \
    pydantic==2.12.5
# With later ones of these, its execution API answers no request.
resolve constraints-airflow-3.2.txt "Airflow 3.2" 3.10 "--group dev" apache-airflow==3.2.2 pydantic==2.13.4 \
    fastapi==0.136.3 cadwyn==7.0.0 svcs==25.1.0 sqlalchemy==2.0.58
# Airflow 3.4 needs Python 3.11.
resolve constraints-airflow-3.4.txt "a pre-release of the next Airflow" 3.11 "--group dev" apache-airflow==3.4.0b2
