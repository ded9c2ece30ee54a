import csv

from lethe_client import Client

with Client("http://127.0.0.1:8000") as lethe, open("items.csv") as items, open("ratings.csv") as ratings:
    lethe.put_items(csv.DictReader(items))  # item_id, title, year
    lethe.take_interactions(csv.DictReader(ratings))  # user_id, item_id, rating
    print([item.title for item in lethe.recommend("ann", top_k=3).items])
    asked = lethe.forget("ann")
    print(lethe.wait_for_receipt(asked.request_id).decode())
