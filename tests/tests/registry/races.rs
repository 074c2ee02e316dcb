//! T19: many clients, one thing.

use std::collections::BTreeSet;

use berth_testkit::in_every_setting;
use futures::future::join_all;

use crate::own;

const CLIENTS: usize = 64;

in_every_setting! {
    async fn t19_sixty_four_clients_push_one_layer(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t19-layer");
        let layer = content.layer(200_000);
        let pushes = (0..CLIENTS).map(|client| {
            let (repository, layer) = (&repository, &layer);
            async move {
                match client % 3 {
                    0 => repository.push_blob(layer).await,
                    1 => repository.push_blob_at_once(layer).await,
                    _ => repository.push_blob_in_chunks(layer, 77_777).await,
                }
            }
        });
        for pushed in join_all(pushes).await {
            pushed.unwrap();
        }
        repository.pull_blob(&layer).await.unwrap();
        let head = repository.head(&format!("blobs/{}", layer.digest)).await.unwrap().expect(200).unwrap();
        assert_eq!(head.header("content-length"), Some("200000"));
    }

    async fn t19_sixty_four_manifests_race_for_one_tag(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t19-tag");
        let images: Vec<_> = (0..CLIENTS).map(|_| content.image(0, 0)).collect();
        for image in &images {
            repository.push_blob_at_once(&image.config).await.unwrap();
        }
        let pushes = images.iter().map(|image| repository.put_manifest("latest", &image.manifest));
        for pushed in join_all(pushes).await {
            pushed.unwrap().expect(201).unwrap();
        }
        let winner = repository.manifest("latest").await.unwrap().expect(200).unwrap();
        let winning = images.iter().filter(|image| image.manifest.bytes == winner.body).count();
        assert_eq!(winning, 1, "the tag is exactly one of them");
        for image in &images {
            repository.pull_image(&image.manifest.digest.to_string(), image).await.unwrap();
        }
        assert_eq!(repository.tags().await.unwrap(), ["latest"]);
    }

    async fn t19_pushes_of_many_tags_and_their_deletes_end_in_one_state(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t19-mix");
        let images: Vec<_> = (0..8).map(|_| content.image(1, 1000)).collect();
        for image in &images {
            repository.push_image(&image.manifest.digest.to_string(), image).await.unwrap();
        }
        let steps = (0..64).map(|step| {
            let (repository, image) = (&repository, &images[step % 8]);
            async move {
                let tag = format!("v{}", step % 4);
                if step % 5 == 4 {
                    let deleted = repository.delete(&format!("manifests/{tag}")).await.unwrap();
                    assert!([202, 404].contains(&deleted.status), "{}", deleted.status);
                } else {
                    repository.put_manifest(&tag, &image.manifest).await.unwrap().expect(201).unwrap();
                }
            }
        });
        join_all(steps).await;
        let known: BTreeSet<_> = images.iter().map(|image| image.manifest.bytes.clone()).collect();
        for tag in repository.tags().await.unwrap() {
            assert!(known.contains(&repository.manifest(&tag).await.unwrap().expect(200).unwrap().body), "{tag}");
        }
    }
}
