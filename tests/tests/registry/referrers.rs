//! T21: referrers and their subjects.

use std::collections::BTreeSet;

use berth_oci::{Algorithm, Digest, MediaType};
use berth_testkit::in_every_setting;

use crate::own;

in_every_setting! {
    async fn t21_a_referrer_may_come_before_its_subject(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t21-before");
        let subject = content.image(1, 100);
        let digest = subject.manifest.digest;
        assert_eq!(repository.referrers(&digest, "").await.unwrap(), [] as [String; 0], "an absent repository has none");
        let referrer = content.artifact("application/vnd.example.signature", Some(&subject.manifest));
        let pushed = repository.push_image("signature", &referrer).await.unwrap();
        assert_eq!(pushed.header("oci-subject"), Some(digest.to_string().as_str()));
        let expected = [referrer.manifest.digest.to_string()];
        assert_eq!(repository.referrers(&digest, "").await.unwrap(), expected, "before the subject is there");
        repository.push_image("v1", &subject).await.unwrap();
        assert_eq!(repository.referrers(&digest, "").await.unwrap(), expected);
        // Deleted, a referrer is listed no more; its subject stays.
        repository.delete(&format!("manifests/{}", referrer.manifest.digest)).await.unwrap().expect(202).unwrap();
        assert_eq!(repository.referrers(&digest, "").await.unwrap(), [] as [String; 0]);
        repository.pull_image("v1", &subject).await.unwrap();
    }

    async fn t21_lists_are_filtered_and_paged(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t21-pages");
        let subject = content.image(0, 0);
        repository.push_image("v1", &subject).await.unwrap();
        let mut kinds = [BTreeSet::new(), BTreeSet::new()];
        for number in 0..12 {
            let kind = number % 3 % 2;
            let referrer = content.artifact(&format!("application/vnd.example.kind{kind}+json"), Some(&subject.manifest));
            let digest = referrer.manifest.digest.to_string();
            repository.push_image(&digest, &referrer).await.unwrap();
            kinds[kind].insert(digest);
        }
        let subject = subject.manifest.digest;
        let all: BTreeSet<_> = repository.referrers(&subject, "").await.unwrap().into_iter().collect();
        assert_eq!(all.len(), 12);
        let (pages, count) = repository.all_pages(&format!("referrers/{subject}?n=5"), "manifests").await.unwrap();
        assert_eq!((pages.len(), count), (12, 3));
        for (kind, expected) in kinds.iter().enumerate() {
            let query = format!("?artifactType=application%2Fvnd.example.kind{kind}%2Bjson&n=3");
            let found: BTreeSet<_> = repository.referrers(&subject, &query).await.unwrap().into_iter().collect();
            assert_eq!(&found, expected);
            let reply = repository.get(&format!("referrers/{subject}{query}")).await.unwrap().expect(200).unwrap();
            assert_eq!(reply.header("oci-filters-applied"), Some("artifactType"));
            assert_eq!(reply.header("content-type"), Some(MediaType::OCI_INDEX));
            for entry in reply.json()["manifests"].as_array().unwrap() {
                assert_eq!(entry["artifactType"], format!("application/vnd.example.kind{kind}+json"));
                assert!(entry["annotations"]["seed"].is_string(), "annotations are part of the list");
                assert!(entry["size"].as_u64().unwrap() > 0);
            }
        }
        let none = repository.referrers(&subject, "?artifactType=application/none").await.unwrap();
        assert!(none.is_empty());
    }

    async fn t21_the_subject_goes_and_the_list_still_answers(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t21-delete");
        let subject = content.image(1, 100);
        repository.push_image("v1", &subject).await.unwrap();
        let referrer = content.artifact("application/vnd.example.sbom", Some(&subject.manifest));
        repository.push_image(&referrer.manifest.digest.to_string(), &referrer).await.unwrap();
        let digest = subject.manifest.digest;
        // A subject is not kept by its referrers.
        repository.delete(&format!("manifests/{digest}")).await.unwrap().expect(202).unwrap();
        repository.manifest(&digest.to_string()).await.unwrap().expect(404).unwrap();
        repository.manifest("v1").await.unwrap().expect(404).unwrap();
        let listed = repository.referrers(&digest, "").await.unwrap();
        assert!(listed.len() <= 1, "{listed:?}");
        // An unknown subject has an empty index, a digest that is none is refused.
        let unknown = Digest::of(Algorithm::Sha512, b"unknown");
        let reply = repository.get(&format!("referrers/{unknown}")).await.unwrap().expect(200).unwrap();
        assert_eq!(reply.json()["manifests"], serde_json::json!([]));
        assert_eq!(reply.json()["schemaVersion"], 2);
        assert_eq!(repository.get("referrers/sha256:abc").await.unwrap().status, 400);
    }

    async fn t21_an_index_may_refer_and_a_chain_lists_one_step(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t21-chain");
        let mut image = content.image(0, 0);
        repository.push_image("v1", &image).await.unwrap();
        for _ in 0..20 {
            let next = content.artifact("application/vnd.example.step", Some(&image.manifest));
            repository.push_image(&next.manifest.digest.to_string(), &next).await.unwrap();
            let expected = [next.manifest.digest.to_string()];
            assert_eq!(repository.referrers(&image.manifest.digest, "").await.unwrap(), expected);
            image = next;
        }
    }
}
