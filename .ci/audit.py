"""Ask whether anything that is installed here has a known vulnerability; says so where nobody can be asked."""

import json
import subprocess
import sys

COMMAND = [sys.executable, "-m", "pip_audit", "--format", "json", "--skip-editable", "--progress-spinner", "off"]


def main() -> int:
    """Run pip-audit over this environment: 1 if it finds something, else 0, and what was not checked is printed."""
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        packages, reason = [], (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    else:
        reason = "it knows none of the packages"
    checked = [package for package in packages if "vulns" in package]
    if not checked:
        print(f"pip-audit: SKIPPED, its database can't be reached: {reason}", file=sys.stderr)
        return 0
    found = [(package, vulnerability) for package in checked for vulnerability in package["vulns"]]
    for package, vulnerability in found:
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {mended}", file=sys.stderr)
    left_out = ", ".join(package["name"] for package in packages if "vulns" not in package) or "none"
    print(f"pip-audit: {len(found)} vulnerabilities in {len(checked)} packages; not checked: {left_out}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
