"""A MySQL of its own, from the files that `unpack_mysql.sh` has unpacked.

    with mysql(folder) as url:
        LiveAirflow(home, dags_folder, database=url)

It listens on a Unix socket in a folder that only its owner can enter, and on no port. As a program it runs a
command with Airflow's metadata database in such a server:

    python scripts/mysql_server.py FOLDER python -m pytest tests/integration/airflow/test_ui.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes

_SECONDS = 180.0
_DATABASES = "CREATE DATABASE airflow; CREATE DATABASE tables;"


class MysqlError(RuntimeError):
    """MySQL did not start; the message ends with the last lines of its log."""


@contextmanager
def mysql(unpacked: Path) -> Iterator[str]:
    """Run MySQL with the empty databases `airflow` and `tables`; the URL of the first. Raises MysqlError."""
    with processes.sigterm_raises():
        home = Path(tempfile.mkdtemp(prefix="mysql-", dir="/tmp"))  # the path of a socket must be short
        log, socket = home / "mysql.log", home / "socket"
        (home / "init.sql").write_text(_DATABASES)
        libraries = next((unpacked / "usr/lib").glob("*/libc.so.6")).parent
        command = [str(next((unpacked / "usr/lib64").glob("ld-linux*"))), "--library-path", str(libraries)]
        command += [str(unpacked / "usr/sbin/mysqld"), "--no-defaults", f"--basedir={unpacked / 'usr'}"]
        command += [f"--datadir={home / 'data'}", "--secure-file-priv=NULL"]
        command += ["--user=root"] if os.geteuid() == 0 else []
        serve = [f"--init-file={home / 'init.sql'}", f"--socket={socket}", f"--pid-file={home / 'pid'}"]
        serve += ["--skip-networking", "--mysqlx=OFF", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0"]
        children: list[subprocess.Popen[bytes]] = []
        try:
            with log.open("wb") as output:
                subprocess.run([*command, "--initialize-insecure"], stdout=output, stderr=output, check=False)
            with processes.signals_held():
                children.append(processes.start([*command, *serve], env=os.environ, log=log, cwd=home))
            server = children[0]
            processes.wait_until(lambda: server.poll() is not None or socket.exists(), timeout=_SECONDS)
            if not socket.exists():
                raise MysqlError(f"MySQL did not start:\n{processes.tail(log)}")
            yield f"mysql+mysqldb://root@localhost/airflow?unix_socket={socket}"
        finally:
            with processes.signals_held():
                processes.stop(children)
                shutil.rmtree(home)


if __name__ == "__main__":
    with mysql(Path(sys.argv[1]).resolve()) as url:
        settings = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",  # the pages use no asynchronous driver
        }
        sys.exit(subprocess.run(sys.argv[2:], env=os.environ | settings, check=False).returncode)
