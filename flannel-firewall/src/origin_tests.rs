use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn of_several_daemons_that_write_at_once_nothing_is_lost() {
    const DAEMONS: usize = 8;
    const LINES: usize = 10;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tables");
    let mut daemons = tokio::task::JoinSet::new();
    for daemon in 0..DAEMONS {
        let file = file.clone();
        daemons.spawn(async move {
            for line in 0..LINES {
                rewrite(&file, |lines| lines.extend([format!("ip {daemon} {line}")]))
                    .await
                    .unwrap();
            }
        });
    }
    daemons.join_all().await;
    assert_eq!(remembered(&file).await.unwrap().len(), DAEMONS * LINES);
    // Nothing but the file is left.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    rewrite(&file, BTreeSet::clear).await.unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_remembered_is_of_this_boot() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tables");
    rewrite(&file, |lines| lines.extend(["ip nat".to_owned()]))
        .await
        .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(
        remembered(&file).await.unwrap(),
        BTreeSet::from(["ip nat".to_owned()])
    );
    for other in [
        text.replacen("boot ", "boot 0", 1),
        "ip nat\n".to_owned(),
        String::new(),
    ] {
        fs::write(&file, &other).unwrap();
        assert_eq!(remembered(&file).await.unwrap(), BTreeSet::new(), "{other}");
    }
    rewrite(&file, |lines| lines.extend(["ip filter".to_owned()]))
        .await
        .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("boot ") && text.ends_with("\nip filter\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let directory = TempDir::new().unwrap();
    let origin = Origin::in_file(directory.path().to_owned());
    let error = origin.made().await.unwrap_err();
    assert!(error.to_string().starts_with("reading "), "{error}");
}
