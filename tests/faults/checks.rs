//! Checks, whose answer decides with the connection.

use crate::common::project::Project;
use crate::common::transaction::{between, failing, newest};
use crate::common::{self, Backend, Lab, same};
use crate::{HOST, LONG, managed, on_host};
use std::path::{Path, PathBuf};

/// Behind a bridge that changed a check gets time; after any other change its first answer counts.
#[test]
fn a_check_behind_a_changed_bridge_gets_time() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    // Fails twice once the change is made.
    let check = "test -e /run/armed || { touch /run/armed; exit 0; }; echo x >>/run/count; test $(wc -l </run/count) -gt 2";
    let checks = format!("checks: [{{ command: '{check}' }}]\n");
    project.all(&format!(
        "modules: [host-firewall, bridge-accept-each]\nbridges: {{ br123: {{ ageing: 77 }} }}\n{checks}"
    ));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(on_host(&lab, "wc -l </run/count").trim(), "3");
    on_host(&lab, "rm /run/armed /run/count");
    project.all(&format!("modules: [host-firewall, bridge-accept-each, firewall-log]\nbridges: {{ br123: {{ ageing: 77 }} }}\n{checks}"));
    project.apply(&lab, &[]).expect(4);
    assert_eq!(on_host(&lab, "wc -l </run/count").trim(), "1");
    let folder: PathBuf = newest(&lab, HOST).unwrap();
    assert!(between(&folder, "applied", "done") < LONG);
    assert!(Path::new(&folder).join("applied").exists());
}

#[test]
fn t24_a_failed_first_apply_leaves_nothing() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let before = lab.dump(HOST);
    Project::new(&lab, &[HOST], &failing(80)).apply(&lab, &[]).expect(4);
    same(&before, &lab.dump(HOST), "after the rollback");
}
