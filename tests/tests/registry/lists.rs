//! T27: long lists, and pages that nobody should ask for.

use berth_testkit::{Deployment, Repository, in_every_setting};
use futures::{StreamExt, TryStreamExt, stream};

use crate::own;

/// Pushes one manifest under `count` tags, fifty at a time: each comes back in a header, and clients bound those.
async fn many_tags(repository: &Repository, image: &berth_testkit::Image, count: usize) {
    repository.push_image(&image.manifest.digest.to_string(), image).await.unwrap();
    for start in (0..count).step_by(50) {
        let tags: Vec<_> = (start..count.min(start + 50)).map(|number| format!("tag=t{number:06}")).collect();
        let reference = format!("{}?{}", image.manifest.digest, tags.join("&"));
        let pushed = repository.put_manifest(&reference, &image.manifest).await.unwrap().expect(201).unwrap();
        assert_eq!(pushed.headers.get_all("oci-tag").iter().count(), tags.len());
    }
}

async fn walk_tags(deployment: &Deployment, case: &str, count: usize) {
    let (repository, mut content) = own(deployment, case);
    many_tags(&repository, &content.image(0, 0), count).await;
    let before = deployment.resident_bytes();
    for (query, least_pages) in
        [("", count.div_ceil(1000)), ("?n=777", count.div_ceil(777)), ("?n=2147483648", count.div_ceil(1000))]
    {
        let (tags, pages) = repository.all_pages(&format!("tags/list{query}"), "tags").await.unwrap();
        let expected = (0..count).map(|number| format!("t{number:06}"));
        assert!(tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).eq(expected), "{query}");
        assert!(pages >= least_pages, "{query}: {pages} pages are not capped");
    }
    let grown = deployment.resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "lists took {grown} bytes");
}

async fn walk_referrers(deployment: &Deployment, case: &str, count: usize) {
    let (repository, mut content) = own(deployment, case);
    let subject = content.image(0, 0);
    repository.push_image("v1", &subject).await.unwrap();
    let referrers: Vec<_> =
        (0..count).map(|_| content.artifact("application/x", Some(&subject.manifest))).collect();
    repository.push_blob_at_once(&referrers[0].config).await.unwrap();
    let pushes = referrers.iter().map(|referrer| async {
        repository.put_manifest(&referrer.manifest.digest.to_string(), &referrer.manifest).await?.expect(201)
    });
    stream::iter(pushes).buffer_unordered(16).try_collect::<Vec<_>>().await.unwrap();
    let target = format!("referrers/{}", subject.manifest.digest);
    for query in ["", "?n=2147483648", "?n=33"] {
        let (listed, pages) = repository.all_pages(&format!("{target}{query}"), "manifests").await.unwrap();
        assert_eq!(listed.len(), count, "{query}");
        assert!(pages >= count.div_ceil(100), "{query}: {pages} pages are not capped");
    }
}

in_every_setting! {
    async fn t27_two_thousand_tags_come_in_capped_pages(deployment: &'static Deployment) {
        walk_tags(deployment, "t27-tags", 2300).await;
    }

    #[ignore = "long"]
    async fn t27_long_a_hundred_thousand_tags(deployment: &'static Deployment) {
        walk_tags(deployment, "t27-tags-long", 100_000).await;
    }

    async fn t27_referrers_come_in_capped_pages(deployment: &'static Deployment) {
        walk_referrers(deployment, "t27-referrers", 250).await;
    }

    #[ignore = "long"]
    async fn t27_long_ten_thousand_referrers(deployment: &'static Deployment) {
        walk_referrers(deployment, "t27-referrers-long", 10_000).await;
    }

    async fn t27_wrong_pages_are_refused(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t27-wrong");
        let image = content.image(0, 0);
        many_tags(&repository, &image, 5).await;
        let referrers = format!("referrers/{}", image.manifest.digest);
        for list in ["tags/list", &referrers] {
            for query in ["n=-1", "n=x", "n=", "n=1.5", "n=0x1", "n=%00", "n=1%20", "n=+1", "last=%00", "last=a%20b", "last=..%2F.."] {
                let refused = repository.get(&format!("{list}?{query}")).await.unwrap();
                assert_eq!(refused.status, 400, "{list}?{query}");
                assert_eq!(refused.error_code().as_deref(), Some("PAGINATION_NUMBER_INVALID"), "{list}?{query}");
            }
            let nothing = repository.get(&format!("{list}?n=0")).await.unwrap().expect(200).unwrap();
            let key = if list == "tags/list" { "tags" } else { "manifests" };
            assert_eq!(nothing.json()[key], serde_json::json!([]), "n=0");
            assert_eq!(nothing.next_page(), None, "n=0");
        }
        // A position that is no tag's, but could be one: whatever comes after it, in the order of bytes.
        let after = |last: &str| format!("tags/list?n=2&last={last}");
        let page = repository.get(&after("t000001z")).await.unwrap().expect(200).unwrap();
        assert_eq!(page.json()["tags"], serde_json::json!(["t000002", "t000003"]));
        let end = repository.get(&after("zzz")).await.unwrap().expect(200).unwrap();
        assert_eq!((end.json()["tags"].clone(), end.next_page()), (serde_json::json!([]), None));
        // A page that ends with the list has no next one.
        let exact = repository.get("tags/list?n=5").await.unwrap().expect(200).unwrap();
        assert_eq!((exact.json()["tags"].as_array().unwrap().len(), exact.next_page()), (5, None));
        deployment.client().repository("t27-wrong/absent").get("tags/list").await.unwrap().expect(404).unwrap();
    }

    async fn t27_the_catalog_comes_in_pages_in_lexical_order(deployment: &'static Deployment) {
        let mut content = own(deployment, "t27-catalog").1;
        let client = deployment.client();
        let names: Vec<_> = (0..25).map(|number| format!("t27-catalog/repository-{number:02}")).collect();
        for name in &names {
            client.repository(name).push_image("v1", &content.image(0, 0)).await.unwrap();
        }
        let (mut listed, mut next) = (Vec::new(), Some("?n=7".to_owned()));
        while let Some(query) = next {
            let page = client.catalog(&query).await.unwrap().expect(200).unwrap();
            let repositories = page.json()["repositories"].as_array().unwrap().clone();
            assert!(repositories.len() <= 7);
            listed.extend(repositories.iter().map(|name| name.as_str().unwrap().to_owned()));
            next = page.next_page().map(|target| target.strip_prefix("/v2/_catalog").unwrap().to_owned());
        }
        assert!(listed.is_sorted(), "{listed:?}");
        let ours: Vec<_> = listed.into_iter().filter(|name| name.starts_with("t27-catalog/")).collect();
        assert_eq!(ours, names);
        for wrong in ["?n=-1", "?n=x", "?last=..", "?last=A"] {
            assert_eq!(client.catalog(wrong).await.unwrap().status, 400, "{wrong}");
        }
        let nothing = client.catalog("?n=0").await.unwrap().expect(200).unwrap();
        assert_eq!((nothing.json()["repositories"].clone(), nothing.next_page()), (serde_json::json!([]), None));
    }
}
